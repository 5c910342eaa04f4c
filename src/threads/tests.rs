//! Teams of threads: every piece once, and panics that come back.

use super::*;

#[test]
fn every_range_is_visited_once_for_ragged_totals() {
    // also more members than there are shares
    for members in [2, 3, OWNERS + 4] {
        let team = Team::new(members);
        for total in [0, 1, 2, 7, 64, 1001] {
            for grain in [1, 3, 64, 2000] {
                let seen: Vec<_> = (0..total).map(|_| AtomicUsize::new(0)).collect();
                team.for_ranges(total, grain, |range| {
                    assert!(range.len() <= grain && range.start % grain == 0);
                    seen[range].iter().for_each(|n| _ = n.fetch_add(1, Ordering::Relaxed));
                });
                assert!(seen.into_iter().all(|n| n.into_inner() == 1), "{members}, total {total}, grain {grain}");
            }
        }
    }
}

#[test]
fn a_panic_on_any_member_reaches_the_caller_and_the_team_lives_on() {
    let team = Team::new(3);
    for member in 0..3 {
        let result = catch_unwind(AssertUnwindSafe(|| team.run(|i| assert_ne!(i, member))));
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        team.run(|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 3);
    }
}

#[test]
fn callers_on_several_threads_and_nested_calls_take_turns() {
    let team = Team::new(2);
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    team.run(|_| {
                        team.run(|_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                }
            });
        }
    });
    assert_eq!(count.into_inner(), 4 * 200 * 2 * 2);
}

#[test]
fn a_sleeping_team_wakes() {
    let team = Team::new(2);
    for _ in 0..3 {
        std::thread::sleep(SPIN * 5);
        let count = AtomicUsize::new(0);
        team.run(|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 2);
    }
}

/// Runs a job whose caller waits until the other member has entered it, and says whether it has, within ten seconds.
fn meets(team: &Team) -> bool {
    // whatever else this machine does may have displaced the other member
    *team.turn.lock().unwrap() = Pace::default();
    let (met, began) = (AtomicBool::new(false), Instant::now());
    team.enter(|member| {
        if member > 0 {
            met.store(true, Ordering::SeqCst);
        }
        while !met.load(Ordering::SeqCst) && began.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
    });
    met.into_inner()
}

#[test]
fn members_that_spin_or_sleep_come_to_a_job() {
    let team = Team::new(2);
    for pause in [SPIN / 10, SPIN * 5, SPIN * 5] {
        std::thread::sleep(pause);
        assert!(meets(&team));
    }
}

#[test]
fn a_member_that_has_not_begun_is_not_waited_for() {
    let team = Team::new(2);
    let (held, go) = (AtomicBool::new(false), AtomicBool::new(false));
    let finished = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // the worker is kept in a job by another caller's piece until this thread has let it go
        scope.spawn(|| {
            team.enter(|member| {
                if member > 0 {
                    held.store(true, Ordering::SeqCst);
                    while !go.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                } else {
                    while !held.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    go.store(true, Ordering::SeqCst);
                }
            });
        });
    });
    // a worker that sleeps needs longer to wake than this job takes
    std::thread::sleep(SPIN * 5);
    for _ in 0..100 {
        team.for_ranges(2, 1, |range| _ = finished.fetch_add(range.len(), Ordering::SeqCst));
    }
    assert_eq!(finished.into_inner(), 200);
    assert!(meets(&team));
}

#[test]
fn after_a_member_that_was_displaced_the_caller_works_alone_for_a_while() {
    let team = Team::new(2);
    let (entered, left) = (AtomicBool::new(false), Mutex::new(None));
    let began = Instant::now();
    team.enter(|member| {
        if member > 0 {
            entered.store(true, Ordering::SeqCst);
            while left.lock().unwrap().is_none() {
                std::thread::yield_now();
            }
            // longer than the caller's own time excuses
            std::thread::sleep(4 * began.elapsed() + 10 * LATE);
        } else {
            while !entered.load(Ordering::SeqCst) && began.elapsed() < Duration::from_secs(1) {
                std::thread::yield_now();
            }
            *left.lock().unwrap() = Some(());
        }
    });
    let alone = team.turn.lock().unwrap().alone;
    let rest = alone.map(|until| until.saturating_duration_since(Instant::now()));
    assert!(rest.is_some_and(|rest| rest > 10 * LATE), "{rest:?}");
    team.turn.lock().unwrap().alone = Some(Instant::now() + Duration::from_secs(3600));
    let members = AtomicUsize::new(0);
    for _ in 0..1000 {
        team.enter(|member| _ = members.fetch_add(member + 1, Ordering::Relaxed));
    }
    assert_eq!(members.into_inner(), 1000);
    team.turn.lock().unwrap().alone = Some(Instant::now());
    assert!(meets(&team));
}

fn count(part: &mut [u8]) {
    part.iter_mut().for_each(|n| *n += 1);
}

fn count_window(mut window: Window<'_, u8>) {
    (0..window.rows()).for_each(|row| count(window.row(row)));
}

#[test]
fn pieces_and_shares_cover_each_element_once_in_order() {
    let team = Team::new(3);
    for len in [0, 1, 7, 64, 1001] {
        for (step, shares) in [(1, 1), (3, 5), (16, 4), (64, 7), (2000, 2)] {
            let mut data = vec![0u8; len];
            team.for_parts(Pieces::new(&mut data, step), 2, |index, piece| {
                assert_eq!(piece.len(), step.min(len - index * step));
                count(piece);
            });
            assert!(data.iter().all(|&n| n == 1), "{len} in pieces of {step}");
            let steps = len.div_ceil(step);
            team.for_parts(Pieces::shares(&mut data, 0..len, step, shares), 1, |index, share| {
                let ends = [index, index + 1].map(|i| (i * steps / shares * step).min(len));
                assert_eq!(share.len(), ends[1] - ends[0]);
                count(share);
            });
            assert!(data.iter().all(|&n| n == 2), "{len} in {shares} shares of steps of {step}");
            let range = len / 3..len - len / 5;
            let (first, steps) = (range.start / step, range.end.div_ceil(step) - range.start / step);
            team.for_parts(Pieces::shares(&mut data, range.clone(), step, shares), 1, |index, share| {
                let cut = |i: usize| ((first + i * steps / shares) * step).clamp(range.start, range.end);
                assert_eq!(share.len(), cut(index + 1) - cut(index));
                count(share);
            });
            assert!(data.iter().enumerate().all(|(at, &n)| n == 2 + u8::from(range.contains(&at))));
        }
    }
}

#[test]
fn tiles_cover_the_columns_asked_for_once() {
    for (rows, stride, columns, height, width) in [
        (1, 1, 0..1, 1, 1),
        (7, 10, 0..9, 3, 4),
        (7, 10, 2..9, 3, 4),
        (7, 10, 5..6, 3, 4),
        (64, 48, 16..48, 32, 16),
        (5, 3, 0..0, 2, 2),
        (5, 3, 3..3, 2, 2),
        (0, 8, 0..8, 4, 4),
    ] {
        let mut data = vec![0u8; rows * stride];
        let tiles = Tiles::new(&mut data, stride, columns.clone(), height, width);
        let grid = tiles.grid();
        Team::new(3).for_parts(tiles, 1, |unit, mut window| {
            let (row, column, skip) = grid.at(unit);
            assert!(row % height == 0 && column % width == 0 && column + skip >= columns.start);
            let end = (column + width).min(columns.end);
            assert_eq!((window.rows(), window.row(0).len()), (height.min(rows - row), end - column - skip));
            count_window(window);
        });
        for (at, &n) in data.iter().enumerate() {
            assert_eq!(n, u8::from(columns.contains(&(at % stride))), "element {at} of [{rows}, {stride}]");
        }
    }
}

#[test]
fn block_columns_cover_the_listed_blocks_of_every_row_once() {
    let (m, n) = (3, 100);
    let ranges = [0..1, 2..18, 40..41, 96..100];
    let blocks = RowBlocks::new(&ranges, n).unwrap();
    let mut y = vec![0u8; m * n];
    Team::new(2).for_parts(BlockColumns::new(&mut y, n, &blocks), 1, |_, (columns, window)| {
        assert_eq!((columns.start % RowBlocks::HEIGHT, window.rows()), (0, m));
        count_window(window);
    });
    for (at, &count) in y.iter().enumerate() {
        assert_eq!(count, u8::from([0, 1, 2, 6].contains(&(at % n / RowBlocks::HEIGHT))), "column {}", at % n);
    }
}

#[test]
fn areas_are_written_last_first_and_may_not_overlap() {
    let mut areas = Areas::new();
    for (strip, rows) in [(0, 0..2), (0, 3..4), (1, 1..4)] {
        areas.push(strip, rows, ());
    }
    let mut data = vec![0u8; 4 * 5];
    let order = Mutex::new(Vec::new());
    Team::new(1).for_parts(AreaWindows::new(&mut data, 5, 2, &areas), 1, |_, (&(), window)| {
        order.lock().unwrap().push(window.rows());
        count_window(window);
    });
    assert_eq!(order.into_inner().unwrap(), [3, 1, 2]);
    assert_eq!(data, [1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 0]);
    for (strip, rows) in [(0, 9..10), (1, 3..5)] {
        assert!(catch_unwind(AssertUnwindSafe(|| areas.push(strip, rows, ()))).is_err());
    }
}

#[test]
fn buffers_cut_alike_come_together_with_scratch_of_the_members_own() {
    let team = Team::new(3);
    let (mut wide, mut narrow, mut totals) = (vec![0u8; 40 * 3], [[0u8; 40]; 2], vec![0usize; 3]);
    let [a, b] = &mut narrow;
    let parts = (Pieces::new(&mut wide, 3), [Pieces::new(a, 1), Pieces::new(b, 1)]);
    team.for_parts_with(parts, 2, Pieces::new(&mut totals, 1), |total, index, (wide, [a, b])| {
        wide.fill(index as u8);
        (a[0], b[0]) = (index as u8, index as u8 + 1);
        total[0] += 1;
    });
    assert!((0..40).all(|i| wide[3 * i..][..3] == [i as u8; 3]));
    assert!((0..40).all(|i| narrow[0][i] == i as u8 && narrow[1][i] == i as u8 + 1));
    assert_eq!(totals.iter().sum::<usize>(), 40);
    let unequal = || (Pieces::new(&mut [0u8; 4][..], 1), Pieces::new(&mut [0u8; 3][..], 1)).count();
    assert!(catch_unwind(unequal).is_err());
}
