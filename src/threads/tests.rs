//! Teams of threads: every piece once, and panics that come back.

use super::*;

#[test]
fn every_range_is_visited_once_for_ragged_totals() {
    let team = Team::new(3);
    for total in [0, 1, 2, 7, 64, 1001] {
        for grain in [1, 3, 64, 2000] {
            let mut seen = vec![0u8; total];
            let shared = Disjoint::new(&mut seen);
            team.for_ranges(total, grain, |range| {
                // SAFETY: ranges are disjoint.
                unsafe { shared.slice(range) }.iter_mut().for_each(|n| *n += 1);
            });
            assert!(seen.iter().all(|&n| n == 1), "total {total}, grain {grain}");
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
