//! A team of threads for phases of a few microseconds.
//!
//! One decoded token is some two hundred parallel phases of 5–50 µs each with a barrier after every one. A
//! work-stealing pool puts idle workers to sleep between them and pays a wake-up for each phase; here workers spin for
//! `SPIN` before they sleep, so a phase starts and ends in well under a microsecond (`cargo bench --bench threads`
//! shows both).

mod areas;
mod parts;
mod pool;
mod row_blocks;
#[cfg(test)]
mod tests;

pub(crate) use areas::{Area, Areas};
pub use parts::SharedSlice;
pub(crate) use parts::{AreaWindows, BlockColumns, Fresh, Parts, Pieces, Tiles, Window};
pub use pool::Pool;
pub(crate) use row_blocks::RowBlocks;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps.
const SPIN: Duration = Duration::from_micros(200);

/// Spins between two looks at the clock.
const SPINS_PER_LOOK: u32 = 64;

/// What the caller waits for a member beyond twice its own time before it takes the member for displaced: something else runs on
/// that core, and waits for it would last as long as the system's time slices.
const LATE: Duration = Duration::from_micros(300);

/// For how many times such a wait the caller then works alone.
const ALONE: u32 = 16;

/// Shares that work is divided into, each with a counter of its own: members that count on one and the same wait for its cache line at every piece.
const OWNERS: usize = 16;

type Job = *const (dyn Fn(usize) + Sync);

/// Keeps the counters that different threads write on different cache lines.
#[repr(align(128))]
struct Padded<T>(T);

/// The word that members enter a job by: the number of jobs published so far, whether this one is closed, and how many have
/// entered it.
struct Gate(Padded<AtomicU64>);

impl Gate {
    const CLOSED: u64 = 1 << 31;
    const JOB: u64 = 1 << 32;

    /// Opens the next job.
    fn open(&self) {
        let jobs = self.0.0.load(Ordering::Relaxed) / Self::JOB;
        self.0.0.store(jobs.wrapping_add(1).wrapping_mul(Self::JOB), Ordering::SeqCst);
    }

    /// Lets nobody in any more, and says how many have entered.
    fn close(&self) -> usize {
        (self.0.0.fetch_or(Self::CLOSED, Ordering::AcqRel) % Self::CLOSED) as usize
    }

    /// The number of the newest job.
    fn job(&self, order: Ordering) -> u64 {
        self.0.0.load(order) / Self::JOB
    }

    /// Enters the newest job, unless it is closed, and gives its number.
    fn enter(&self) -> (u64, bool) {
        let mut seen = self.0.0.load(Ordering::Acquire);
        while seen & Self::CLOSED == 0 {
            match self.0.0.compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return (seen / Self::JOB, true),
                Err(now) => seen = now,
            }
        }
        (seen / Self::JOB, false)
    }
}

struct Shared {
    gate: Gate,
    /// Workers that have entered the current job and finished it.
    finished: Padded<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Workers asleep on `wake`, or about to be.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the thread that holds `Team::turn`, after all who entered the last job have finished
// and nobody else can, and before the gate is opened again; workers read it only between entering and finishing.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is to a `Sync` closure that outlives the job.
unsafe impl Send for Shared {}

/// What a caller knows of its team from one job to the next.
#[derive(Default)]
struct Pace {
    /// Until when it works alone.
    alone: Option<Instant>,
}

/// A fixed team of threads; the calling thread is its member 0.
///
/// Work is handed out in pieces to the members that are there: one that something else keeps from its core is not waited for
/// unless it holds a piece, and if it does, the caller works alone for a while afterwards.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs, so that callers on several threads take turns.
    turn: Mutex<Pace>,
    /// An engine's threads and their number, in place of workers.
    pool: Option<(Box<dyn Pool>, usize)>,
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
            gate: Gate(Padded(AtomicU64::new(Gate::CLOSED))),
            finished: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .filter_map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("moray-{index}")).spawn(move || work(&shared, index)).ok()
            })
            .collect();
        Team { shared, workers, turn: Mutex::new(Pace::default()), pool: None }
    }

    /// A team of an engine's threads, which starts none of its own.
    pub fn on(pool: impl Pool + 'static) -> Team {
        let mut team = Team::new(1);
        let threads = pool.threads().max(1);
        team.pool = Some((Box::new(pool), threads));
        team
    }

    /// The number of members.
    #[allow(clippy::len_without_is_empty)] // a team is never empty
    pub fn len(&self) -> usize {
        self.pool.as_ref().map_or(self.workers.len() + 1, |&(_, threads)| threads)
    }

    /// Runs `job(i)` once for each i below [`Team::len`], on as many threads as are free, and returns when all have finished.
    ///
    /// A call from inside a job runs on the calling thread alone.
    ///
    /// # Panics
    /// If `job` panics for any i, after all that began have finished.
    pub fn run<F: Fn(usize) + Sync>(&self, job: F) {
        let next = Padded(AtomicUsize::new(0));
        self.enter(|_| {
            loop {
                let index = next.0.fetch_add(1, Ordering::Relaxed);
                if index >= self.len() {
                    break;
                }
                job(index);
            }
        });
    }

    /// Runs `job(0)` on the calling thread and `job(member)` on each other member that comes before it has returned.
    fn enter<F: Fn(usize) + Sync>(&self, job: F) {
        if self.len() == 1 || IN_TEAM.get() {
            return job(0);
        }
        if let Some((pool, threads)) = &self.pool {
            return pool::enter(&**pool, *threads, job);
        }
        let mut pace = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let alone = pace.alone.is_some_and(|until| began < until);
        if !alone {
            pace.alone = None;
            self.publish(&job);
        }
        IN_TEAM.set(true);
        let mine = catch_unwind(AssertUnwindSafe(|| job(0)));
        IN_TEAM.set(false);
        let theirs = if alone { None } else { self.close(&mut pace, began) };
        drop(pace);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        if let Some(panic) = theirs {
            resume_unwind(panic);
        }
    }

    fn publish<'a>(&self, job: &'a (dyn Fn(usize) + Sync + 'a)) {
        // SAFETY: only the lifetime changes; `enter` keeps `job` alive until all who entered have finished.
        let job: Job = unsafe { std::mem::transmute::<&'a (dyn Fn(usize) + Sync + 'a), Job>(job) };
        // SAFETY: the turn is held and the gate is closed, so no other thread touches the cell.
        unsafe { *self.shared.job.get() = Some(job) };
        self.shared.finished.0.store(0, Ordering::Relaxed);
        self.shared.gate.open();
        if self.shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.shared.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.shared.wake.notify_all();
        }
    }

    /// Ends a job that began then: waits for the members that have entered, and gives what one of them panicked with.
    fn close(&self, pace: &mut Pace, began: Instant) -> Option<Box<dyn Any + Send>> {
        let entered = self.shared.gate.close();
        let done = || self.shared.finished.0.load(Ordering::Acquire) == entered;
        if (0..SPINS_PER_LOOK).all(|_| !done_or_spin(done)) {
            let own = began.elapsed();
            while (0..SPINS_PER_LOOK).all(|_| !done_or_spin(done)) {
                std::thread::yield_now();
            }
            let now = Instant::now();
            let waited = now.duration_since(began) - own;
            if waited > 2 * own + LATE {
                pace.alone = Some(now + ALONE * waited);
            }
        }
        self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Calls `f(range)` for consecutive ranges of at most `grain` indices that together cover `0..total`.
    ///
    /// Each member has a share of the ranges; one that has none left takes from the others', so unequal ranges and unequal cores balance, and what
    /// belongs to a member that does not come is done by those that do.
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
        let pieces = total.div_ceil(grain);
        let owners = self.len().min(pieces).min(OWNERS);
        let (each, rest) = (pieces / owners, pieces % owners);
        let first = |owner: usize| owner * each + owner.min(rest);
        let shares: [Share; OWNERS] = std::array::from_fn(|owner| Share::new(first(owner)..first(owner + 1)));
        self.enter(|member| {
            let mut own = None;
            for turn in 0..owners {
                let share = &shares[(member + turn) % owners];
                while let Some(taken) = share.take() {
                    let own = own.get_or_insert_with(|| enter(member));
                    for piece in taken {
                        f(own, piece * grain..total.min((piece + 1) * grain));
                    }
                }
            }
        });
    }
}

/// Consecutive pieces of work that one member takes first, and the others when their own are gone; each on cache lines of its own.
#[repr(align(128))]
struct Share {
    next: AtomicUsize,
    end: usize,
}

impl Share {
    fn new(pieces: Range<usize>) -> Share {
        Share { next: AtomicUsize::new(pieces.start), end: pieces.end }
    }

    /// Takes a quarter of the pieces that are left, at least one: few visits to a counter that others may want, and small pieces last, so that all
    /// finish together.
    fn take(&self) -> Option<Range<usize>> {
        let after = |next: usize| next + (self.end - next).div_ceil(4);
        let next =
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < self.end).then(|| after(next)));
        next.ok().map(|next| next..after(next))
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // a worker that has not seen `stop` may still enter: there must be nothing of the last job for it to run
        // SAFETY: the team is borrowed mutably and the gate is closed, so no other thread touches the cell.
        unsafe { *self.shared.job.get() = None };
        self.shared.gate.open();
        drop(self.shared.bed.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker catches its job's panics, so there is nothing to report
        }
    }
}

/// Whether `done`; spins a moment if not.
fn done_or_spin(done: impl Fn() -> bool) -> bool {
    let done = done();
    if !done {
        std::hint::spin_loop();
    }
    done
}

fn work(shared: &Shared, index: usize) {
    IN_TEAM.set(true);
    let mut seen = 0;
    loop {
        wait_for_job(shared, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let (job, entered) = shared.gate.enter();
        seen = job;
        if !entered {
            continue;
        }
        // SAFETY: the job was entered, so it stays alive until `finished` counts this member.
        let job = unsafe { (*shared.job.get()).map(|job| &*job) };
        if let Some(job) = job
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index)))
        {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        shared.finished.0.fetch_add(1, Ordering::Release);
    }
}

/// Returns when there is a job after number `seen`.
fn wait_for_job(shared: &Shared, seen: u64) {
    let start = Instant::now();
    while start.elapsed() <= SPIN {
        if (0..SPINS_PER_LOOK).any(|_| done_or_spin(|| shared.gate.job(Ordering::Acquire) != seen)) {
            return;
        }
        // the caller may be waiting for this very core
        std::thread::yield_now();
    }
    let mut bed = shared.bed.lock().unwrap_or_else(PoisonError::into_inner);
    // one of the two sees the other: this count, or the caller's job
    shared.sleepers.fetch_add(1, Ordering::SeqCst);
    while shared.gate.job(Ordering::SeqCst) == seen {
        bed = shared.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
    }
    shared.sleepers.fetch_sub(1, Ordering::SeqCst);
}
