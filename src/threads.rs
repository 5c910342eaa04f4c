//! A team of threads for phases of a few microseconds.
//!
//! One decoded token is some two hundred parallel phases of 5–50 µs each with a barrier after every one. A
//! work-stealing pool puts idle workers to sleep between them and pays a wake-up for each phase; here workers spin for
//! `SPIN` before they sleep, so a phase starts and ends in well under a microsecond (`cargo bench --bench threads`
//! shows both).

mod areas;
mod parts;
mod row_blocks;
#[cfg(test)]
mod tests;

pub(crate) use areas::{Area, AreaWindows, Areas};
pub(crate) use parts::{BlockColumns, Fresh, Parts, Pieces, Tiles, Window};
pub(crate) use row_blocks::RowBlocks;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps.
const SPIN: Duration = Duration::from_micros(200);

/// Spins between two looks at the clock.
const SPINS_PER_LOOK: u32 = 64;

type Job = *const (dyn Fn(usize) + Sync);

/// Keeps the counters that different threads write on different cache lines.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// Number of jobs published so far; a change tells the workers to run `job`.
    epoch: Padded<AtomicUsize>,
    /// Workers that have not finished the current job.
    running: Padded<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Workers asleep on `wake`.
    sleepers: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the thread that holds `Team::turn`, while `running` is 0 and before the `epoch`
// store that publishes it; workers read it only between seeing that store and decrementing `running`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is to a `Sync` closure that outlives the job.
unsafe impl Send for Shared {}

/// A fixed team of threads; the calling thread is its member 0.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs, so that callers on several threads take turns.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("len", &self.len()).finish()
    }
}

thread_local! {
    static IN_TEAM: Cell<bool> = const { Cell::new(false) };
}

impl Team {
    /// Starts a team of `threads` members (at least 1), `threads − 1` of them new threads.
    pub fn new(threads: usize) -> Team {
        let shared = Arc::new(Shared {
            epoch: Padded(AtomicUsize::new(0)),
            running: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .filter_map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("moray-{index}")).spawn(move || work(&shared, index)).ok()
            })
            .collect();
        Team { shared, workers, turn: Mutex::new(()) }
    }

    /// The number of members.
    #[allow(clippy::len_without_is_empty)] // a team is never empty
    pub fn len(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(member)` once on every member and returns when all have finished.
    ///
    /// A call from inside a job runs all members' parts on the calling thread.
    ///
    /// # Panics
    /// If `job` panics on any member, after all have finished.
    pub fn run<F: Fn(usize) + Sync>(&self, job: F) {
        if self.workers.is_empty() || IN_TEAM.get() {
            (0..self.len()).for_each(job);
            return;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(&job);
        IN_TEAM.set(true);
        let mine = catch_unwind(AssertUnwindSafe(|| job(0)));
        IN_TEAM.set(false);
        let mut spins = 0u32;
        while self.shared.running.0.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let theirs = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        if let Some(panic) = theirs {
            resume_unwind(panic);
        }
    }

    fn publish<'a>(&self, job: &'a (dyn Fn(usize) + Sync + 'a)) {
        // SAFETY: only the lifetime changes; `run` keeps `job` alive until `running` is 0 again.
        let job: Job = unsafe { std::mem::transmute::<&'a (dyn Fn(usize) + Sync + 'a), Job>(job) };
        // SAFETY: the turn is held and no job runs, so no other thread touches the cell.
        unsafe { *self.shared.job.get() = Some(job) };
        self.shared.running.0.store(self.workers.len(), Ordering::Relaxed);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        let sleepers = self.shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        if *sleepers > 0 {
            self.shared.wake.notify_all();
        }
    }

    /// Calls `f(range)` for consecutive ranges of at most `grain` indices that together cover `0..total`.
    ///
    /// Members take the next range when they are free, so unequal ranges and unequal cores balance.
    pub fn for_ranges<F: Fn(Range<usize>) + Sync>(&self, total: usize, grain: usize, f: F) {
        self.share(total, grain, |_| (), |(), range| f(range));
    }

    /// Splits `data` into pieces of `piece` elements (the last may be shorter) and calls `f(index, piece)` on each.
    pub fn for_pieces_mut<T: Send, F: Fn(usize, &mut [T]) + Sync>(&self, data: &mut [T], piece: usize, f: F) {
        self.for_parts(Pieces::new(data, piece), 1, f);
    }

    /// Calls `f(index, part)` on every part; members take `grain` at a time.
    pub(crate) fn for_parts<P: Parts>(&self, parts: P, grain: usize, f: impl Fn(usize, P::Part) + Sync) {
        self.for_parts_with(parts, grain, Fresh(|| ()), |(), index, part| f(index, part));
    }

    /// As [`Team::for_parts`], with the part of `scratch` that has the member's number, or one it makes for itself.
    pub(crate) fn for_parts_with<P: Parts, S: Parts>(
        &self,
        parts: P,
        grain: usize,
        scratch: S,
        f: impl Fn(&mut S::Part, usize, P::Part) + Sync,
    ) {
        assert!(scratch.count() >= self.len(), "scratch for each member");
        // SAFETY: `share` enters each member once, with a number below `len`.
        let enter = |member| unsafe { scratch.part(member) };
        self.share(parts.count(), grain, enter, |own, range| {
            for index in range {
                // SAFETY: `share` gives out each index below the count once.
                f(own, index, unsafe { parts.part(index) });
            }
        });
    }

    /// Gives out the ranges of [`Team::for_ranges`], with what `enter(member)` made when the member got its first.
    fn share<W>(
        &self,
        total: usize,
        grain: usize,
        enter: impl Fn(usize) -> W + Sync,
        f: impl Fn(&mut W, Range<usize>) + Sync,
    ) {
        let grain = grain.max(1);
        if total <= grain {
            if total > 0 {
                f(&mut enter(0), 0..total);
            }
            return;
        }
        let next = Padded(AtomicUsize::new(0));
        self.run(|member| {
            let mut own = None;
            loop {
                let start = next.0.fetch_add(grain, Ordering::Relaxed);
                if start >= total {
                    break;
                }
                f(own.get_or_insert_with(|| enter(member)), start..total.min(start + grain));
            }
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        drop(self.shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker catches its job's panics, so there is nothing to report
        }
    }
}

fn work(shared: &Shared, index: usize) {
    IN_TEAM.set(true);
    let mut seen = 0;
    loop {
        seen = wait_for_epoch(shared, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch changed, so the job is published and stays alive until `running` is decremented.
        let job = unsafe { (*shared.job.get()).map(|job| &*job) };
        if let Some(job) = job
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index)))
        {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        shared.running.0.fetch_sub(1, Ordering::Release);
    }
}

fn wait_for_epoch(shared: &Shared, seen: usize) -> usize {
    let start = Instant::now();
    loop {
        for _ in 0..SPINS_PER_LOOK {
            let epoch = shared.epoch.0.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            break;
        }
    }
    let mut sleepers = shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
    *sleepers += 1;
    loop {
        let epoch = shared.epoch.0.load(Ordering::SeqCst);
        if epoch != seen {
            *sleepers -= 1;
            return epoch;
        }
        sleepers = shared.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
    }
}
