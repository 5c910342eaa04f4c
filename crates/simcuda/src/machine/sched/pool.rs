//! Launches over the host's threads: a job's clusters are taken one by one, run for a quantum, and parked if they need more.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::super::env::Env;
use super::super::error::Fault;
use super::super::meter::{Counters, Warning};
use super::cluster::{Cluster, Outcome};
use super::stuck;

/// Steps a cluster runs before it lets another one.
const QUANTUM: u32 = 50_000;
/// One of so many turns is first offered to a cluster that polled: what others do may be to poll in another way.
const FAIR_TURNS: u64 = 16;
/// One of so many turns is the eldest's where the youngest has the others, which may wait for it by atomics.
const ELDEST_TURNS: u64 = 1024;
/// Turns one after the other in which clusters only poll before that counts as a deadlock; a turn with a pause counts as so many.
const IDLE_TURNS: u32 = 10_000;
const PAUSE_TURNS: u32 = 10;
/// What a worker waits after a turn in which a cluster only polled, so that others get on with what is polled for.
const IDLE_PAUSE: Duration = Duration::from_millis(1);

/// What the workers of a job share.
struct Shared {
    /// Clusters that ran out of steps.
    parked: VecDeque<Cluster>,
    /// Clusters that only polled when they ran last.
    polling: VecDeque<Cluster>,
    turns: u64,
    /// Turns of clusters that only polled, since one did more.
    idle_turns: u32,
    /// First cluster that has not been started.
    next: u64,
    /// Clusters started and not finished.
    resident: u64,
    /// Helpers inside the job.
    helpers: u32,
    closed: bool,
    fault: Option<Box<Fault>>,
    totals: Totals,
}

/// One launch.
pub(crate) struct Job {
    env: Arc<Env>,
    clusters: u64,
    budget: AtomicU64,
    stop: AtomicBool,
    shared: Mutex<Shared>,
    left: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a finished job leaves.
#[derive(Default)]
pub(crate) struct Totals {
    pub counters: Counters,
    /// Executions of each instruction.
    pub counts: Vec<u64>,
    pub warnings: Vec<Warning>,
}

impl Totals {
    fn new(env: &Env) -> Self {
        Self { counts: vec![0; env.code.insts.len()], ..Self::default() }
    }

    fn add(&mut self, other: Self) {
        self.counters.add(&other.counters);
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, n)| *sum += n);
        other.warnings.into_iter().for_each(|warning| Warning::add(&mut self.warnings, warning));
    }
}

/// Runs all clusters of a launch.
pub(crate) fn run_job(env: Arc<Env>, clusters: u64) -> Result<Totals, Box<Fault>> {
    let shared = Shared {
        parked: VecDeque::new(),
        polling: VecDeque::new(),
        turns: 0,
        idle_turns: 0,
        next: 0,
        resident: 0,
        helpers: 0,
        closed: false,
        fault: None,
        totals: Totals::new(&env),
    };
    let workers = if env.options.youngest_first { 1 } else { env.options.workers.max(1) as u64 };
    let helpers = workers.min(clusters) - 1;
    let job = Arc::new(Job {
        clusters,
        budget: AtomicU64::new(env.options.instruction_budget),
        stop: AtomicBool::new(false),
        shared: Mutex::new(shared),
        left: Condvar::new(),
        env,
    });
    if helpers > 0 {
        Pool::get().invite(&job, helpers as usize);
    }
    job.work();
    let mut shared = lock(&job.shared);
    shared.closed = true;
    while shared.helpers > 0 {
        shared = job.left.wait(shared).unwrap_or_else(PoisonError::into_inner);
    }
    match shared.fault.take() {
        Some(fault) => Err(fault),
        None => Ok(std::mem::take(&mut shared.totals)),
    }
}

impl Job {
    /// Takes a cluster to run: a new one while the device has room, else one that was parked, else one that polls. `finished` clusters have
    /// left.
    fn take(&self, spare: &mut Option<Cluster>, finished: u64) -> Option<Cluster> {
        let mut shared = lock(&self.shared);
        shared.resident -= finished;
        if shared.next < self.clusters && shared.resident < self.env.resident_clusters {
            let index = self.env.cluster_index(shared.next);
            shared.next += 1;
            shared.resident += 1;
            drop(shared);
            let mut cluster = spare.take().unwrap_or_else(|| Cluster::new(&self.env));
            cluster.restart(&self.env, index);
            return Some(cluster);
        }
        shared.turns += 1;
        let fair = if shared.turns.is_multiple_of(FAIR_TURNS) { shared.polling.pop_front() } else { None };
        let youngest = self.env.options.youngest_first && !shared.turns.is_multiple_of(ELDEST_TURNS);
        let parked = |shared: &mut Shared| if youngest { shared.parked.pop_back() } else { shared.parked.pop_front() };
        fair.or_else(|| parked(&mut shared)).or_else(|| shared.polling.pop_front())
    }

    fn work(&self) {
        let (mut spare, mut finished): (Option<Cluster>, u64) = (None, 0);
        let mut totals = Totals::new(&self.env);
        while !self.stop.load(Ordering::Relaxed) {
            let Some(mut cluster) = self.take(&mut spare, std::mem::take(&mut finished)) else { break };
            // A host process must outlive whatever a kernel does, an error of the interpreter included.
            let outcome = catch_unwind(AssertUnwindSafe(|| cluster.run(QUANTUM)));
            let outcome = outcome.unwrap_or_else(|_| Outcome::Fault(stuck::internal(&self.env)));
            let outcome = self.charge(&mut cluster, outcome);
            let outcome = self.judge(&mut cluster, outcome);
            match outcome {
                Outcome::Done => {
                    finished = 1;
                    // Counts stay with the cluster while it is reused.
                    if let Some(mut old) = spare.replace(cluster) {
                        collect(&mut old, &mut totals);
                    }
                }
                Outcome::Parked => lock(&self.shared).parked.push_back(cluster),
                Outcome::Idle => lock(&self.shared).polling.push_back(cluster),
                Outcome::Fault(fault) => {
                    self.stop.store(true, Ordering::Relaxed);
                    let mut shared = lock(&self.shared);
                    shared.fault.get_or_insert(fault);
                }
            }
        }
        if let Some(mut cluster) = spare {
            collect(&mut cluster, &mut totals);
        }
        lock(&self.shared).totals.add(totals);
    }

    /// Takes the steps off the budget; an empty one is a fault.
    fn charge(&self, cluster: &mut Cluster, outcome: Outcome) -> Outcome {
        let steps = cluster.take_steps();
        let before = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |b| Some(b.saturating_sub(steps)));
        if before.unwrap_or_else(|b| b) > steps || !matches!(outcome, Outcome::Parked) {
            return outcome;
        }
        cluster.endless().map_or(outcome, Outcome::Fault)
    }

    /// Says what a turn in which a cluster only polled was: one of too many of them is a fault, if it is not one that goes on.
    fn judge(&self, cluster: &mut Cluster, outcome: Outcome) -> Outcome {
        let mut shared = lock(&self.shared);
        if !matches!(outcome, Outcome::Idle) {
            shared.idle_turns = 0;
            return outcome;
        }
        let alone = shared.resident == 1 && shared.next == self.clusters;
        shared.idle_turns += if alone { 1 } else { PAUSE_TURNS };
        if shared.idle_turns < IDLE_TURNS {
            let others = !shared.parked.is_empty();
            drop(shared);
            if !alone && !others {
                std::thread::sleep(IDLE_PAUSE);
            }
            return outcome;
        }
        shared.idle_turns = 0;
        drop(shared);
        cluster.stand().map_or_else(Outcome::Fault, |()| Outcome::Parked)
    }

    fn enter(&self) -> bool {
        let mut shared = lock(&self.shared);
        if !shared.closed {
            shared.helpers += 1;
        }
        !shared.closed
    }

    fn leave(&self) {
        lock(&self.shared).helpers -= 1;
        self.left.notify_all();
    }
}

/// Adds a finished cluster's counts to the worker's.
fn collect(cluster: &mut Cluster, totals: &mut Totals) {
    for block in &mut cluster.blocks {
        totals.counters.add(&std::mem::take(&mut block.counters));
        for (sum, count) in totals.counts.iter_mut().zip(&mut block.counts) {
            *sum += std::mem::take(count);
        }
        for warning in block.warnings.drain(..) {
            Warning::add(&mut totals.warnings, warning);
        }
    }
}

/// The process's helper threads.
struct Pool {
    queue: Mutex<(VecDeque<Arc<Job>>, usize)>,
    wake: Condvar,
}

impl Pool {
    fn get() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(|| Self { queue: Mutex::new((VecDeque::new(), 0)), wake: Condvar::new() })
    }

    /// Offers a job to `helpers` threads, which are started as they are first needed.
    fn invite(&'static self, job: &Arc<Job>, helpers: usize) {
        let mut queue = lock(&self.queue);
        while queue.1 < helpers {
            // A thread that cannot be started is only missed as a helper.
            if std::thread::Builder::new().name("simcuda".into()).spawn(|| Self::get().serve()).is_err() {
                break;
            }
            queue.1 += 1;
        }
        let helpers = helpers.min(queue.1);
        queue.0.extend(std::iter::repeat_n(job, helpers).cloned());
        drop(queue);
        for _ in 0..helpers {
            self.wake.notify_one();
        }
    }

    fn serve(&self) {
        loop {
            let mut queue = lock(&self.queue);
            let job = loop {
                match queue.0.pop_front() {
                    Some(job) => break job,
                    None => queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(queue);
            if job.enter() {
                job.work();
                job.leave();
            }
        }
    }
}
