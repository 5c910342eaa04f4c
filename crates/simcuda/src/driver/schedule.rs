//! Streams as queues: when asynchronous work runs, in an order that the API allows.
//!
//! Work of one stream runs in the order of its submission; a wait is a mark (stream, position) that another queue must
//! have reached first. Nothing else orders two streams, and in the lazy order work runs only when something waits for it,
//! so a program that lacks a wait reads what is not there yet.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use super::codes::{Code, Result};
use super::context::Context;
use super::registry::lock;
use super::settings::Order;
use super::state::Driver;
use super::work::Work;

/// A position in a stream: everything up to and with the n-th submission (from 1) to a stream's handle.
pub(super) type Mark = (usize, u64);

/// Submissions that may wait in one queue; more make the oldest run.
const QUEUE_LIMIT: u64 = 4096;

/// One submitted operation.
struct Operation {
    context: Arc<Context>,
    work: Work,
    after: Vec<Mark>,
}

#[derive(Default)]
struct Queue {
    submitted: u64,
    completed: u64,
    waiting: VecDeque<Operation>,
}

/// What the queue in front of a goal allows next.
enum Step {
    Reached,
    Blocked(Mark),
    Ready(Operation),
}

/// All queues and the order in which they run.
pub(super) struct Scheduler {
    queues: Mutex<HashMap<usize, Queue>>,
    /// Held by the thread that runs work, so that operations run one at a time.
    running: Mutex<()>,
    order: Order,
    random: Mutex<Random>,
    /// Takes marks to a thread that runs work for those who only ask whether it has run.
    background: OnceLock<Sender<Mark>>,
}

impl Scheduler {
    pub(super) fn new(order: Order) -> Self {
        let seed = if let Order::Seeded(seed) = order { seed } else { 0 };
        Self {
            queues: Mutex::new(HashMap::new()),
            running: Mutex::new(()),
            order,
            random: Mutex::new(Random::new(seed)),
            background: OnceLock::new(),
        }
    }

    /// Opens the queue of a stream.
    pub(super) fn open(&self, stream: usize) {
        lock(&self.queues).entry(stream).or_default();
    }

    /// Closes the queue of a stream; marks in it count as reached.
    pub(super) fn close(&self, stream: usize) {
        lock(&self.queues).remove(&stream);
    }

    /// Tells the mark of the last submission to a stream, if it has not run yet.
    pub(super) fn pending(&self, stream: usize) -> Option<Mark> {
        let queues = lock(&self.queues);
        queues.get(&stream).filter(|q| q.completed < q.submitted).map(|q| (stream, q.submitted))
    }

    /// Tells whether a mark has been reached.
    pub(super) fn is_reached(&self, mark: Mark) -> bool {
        lock(&self.queues).get(&mark.0).is_none_or(|queue| queue.completed >= mark.1)
    }

    /// Tells the mark of the last submission to a stream, run or not.
    pub(super) fn last(&self, stream: usize) -> Mark {
        (stream, lock(&self.queues).get(&stream).map_or(0, |queue| queue.submitted))
    }

    /// Appends work to a stream and runs what the order wants to run now.
    pub(super) fn submit(
        &self,
        driver: &Driver,
        stream: usize,
        context: &Arc<Context>,
        work: Work,
        after: Vec<Mark>,
    ) -> Mark {
        let (mark, completed) = {
            let mut queues = lock(&self.queues);
            let queue = queues.entry(stream).or_default();
            queue.submitted += 1;
            queue.waiting.push_back(Operation { context: context.clone(), work, after });
            ((stream, queue.submitted), queue.completed)
        };
        match self.order {
            Order::Eager => self.run_to(driver, mark),
            Order::Lazy if mark.1 - completed > QUEUE_LIMIT => {
                self.run_to(driver, (stream, completed + QUEUE_LIMIT / 2))
            }
            Order::Lazy => {}
            Order::Seeded(_) => self.run_some(driver),
        }
        mark
    }

    /// Runs work until a mark is reached, and only what that needs.
    pub(super) fn run_to(&self, driver: &Driver, mark: Mark) {
        let _running = lock(&self.running);
        let mut goals = vec![mark];
        while let Some(&goal) = goals.last() {
            match self.step(goal) {
                Step::Reached => drop(goals.pop()),
                Step::Blocked(mark) => goals.push(mark),
                Step::Ready(operation) => {
                    run(driver, &operation);
                    if let Some(queue) = lock(&self.queues).get_mut(&goal.0) {
                        queue.completed += 1;
                    }
                }
            }
        }
    }

    /// Tells whether a mark has been reached: `CUDA_ERROR_NOT_READY` if not. A program that polls must get on without this
    /// call ever waiting, so another thread then runs what the mark needs.
    pub(super) fn query(&self, driver: &'static Driver, mark: Mark) -> Result<()> {
        if self.is_reached(mark) {
            return Ok(());
        }
        let runner = self.background.get_or_init(|| {
            let (sender, receiver) = channel();
            thread::spawn(move || receiver.into_iter().for_each(|mark| driver.scheduler.run_to(driver, mark)));
            sender
        });
        match runner.send(mark) {
            Ok(()) => Err(Code::NOT_READY.into()),
            Err(_) => Err(Code::UNKNOWN.because("the thread that runs polled work has ended")),
        }
    }

    /// Runs everything submitted so far, on every stream.
    pub(super) fn run_all(&self, driver: &Driver) {
        let mut marks: Vec<Mark> = {
            let queues = lock(&self.queues);
            queues.iter().filter(|(_, q)| q.completed < q.submitted).map(|(&s, q)| (s, q.submitted)).collect()
        };
        // Youngest stream first: whatever order the program did not ask for is not given.
        marks.sort_by_key(|&mark| std::cmp::Reverse(mark));
        for mark in marks {
            self.run_to(driver, mark);
        }
    }

    /// Runs a random number of operations on random streams.
    fn run_some(&self, driver: &Driver) {
        loop {
            let goal = {
                let mut random = lock(&self.random);
                if random.below(2) == 0 {
                    return;
                }
                let queues = lock(&self.queues);
                let mut ready: Vec<Mark> = queues
                    .iter()
                    .filter(|(_, q)| q.completed < q.submitted)
                    .map(|(&s, q)| (s, q.completed + 1))
                    .collect();
                ready.sort_unstable();
                if ready.is_empty() {
                    return;
                }
                ready[random.below(ready.len())]
            };
            self.run_to(driver, goal);
        }
    }

    fn step(&self, goal: Mark) -> Step {
        let mut queues = lock(&self.queues);
        let blocked = match queues.get(&goal.0) {
            Some(queue) if queue.completed < goal.1 => {
                let after = queue.waiting.front().map_or(&[][..], |operation| &operation.after);
                after.iter().copied().find(|mark| queues.get(&mark.0).is_some_and(|other| other.completed < mark.1))
            }
            _ => return Step::Reached,
        };
        if let Some(mark) = blocked {
            return Step::Blocked(mark);
        }
        match queues.get_mut(&goal.0).and_then(|queue| queue.waiting.pop_front()) {
            Some(operation) => Step::Ready(operation),
            None => Step::Reached,
        }
    }

    /// Chooses which of `count` ready graph nodes runs next: 0 is the oldest.
    pub(super) fn choose(&self, count: usize) -> usize {
        match self.order {
            Order::Eager => 0,
            Order::Lazy => count - 1,
            Order::Seeded(_) => lock(&self.random).below(count),
        }
    }
}

/// Runs one operation; a failure ends its context, and in an ended context only memory is still given back.
fn run(driver: &Driver, operation: &Operation) {
    if operation.context.is_poisoned() {
        operation.work.abandon(driver);
        return;
    }
    if let Err(error) = operation.work.run(driver) {
        let reason = error.message.as_deref().unwrap_or("asynchronous work failed");
        eprintln!("simcuda: {}: {reason}", error.code);
        operation.context.poison(error.code);
    }
}

/// A small generator (splitmix64): the same seed gives the same run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }
}
