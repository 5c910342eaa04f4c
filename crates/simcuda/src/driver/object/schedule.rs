//! Streams as queues: when asynchronous work runs, in an order that the API allows.
//!
//! Work of one stream runs in the order of its submission; a wait is a mark (stream, position) that another queue must
//! have reached first. Nothing else orders two streams, and in the lazy order work runs only when something waits for it,
//! so a program that lacks a wait reads what is not there yet.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use super::context::Context;
use super::device::Device;
use super::work::Work;
use crate::driver::codes::{Code, Result};
use crate::driver::registry::lock;
use crate::driver::settings::Order;

/// A position in a stream: everything up to and with the n-th submission (from 1) to a stream's handle.
pub(crate) type Mark = (usize, u64);

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
pub(crate) struct Scheduler {
    queues: Mutex<HashMap<usize, Queue>>,
    /// Held by the thread that runs work, so that operations run one at a time.
    running: Mutex<()>,
    device: Arc<Device>,
    /// Takes marks to a thread that runs work for those who only ask whether it has run.
    background: OnceLock<Sender<Mark>>,
}

impl Scheduler {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self { queues: Mutex::new(HashMap::new()), running: Mutex::new(()), device, background: OnceLock::new() }
    }

    /// Opens the queue of a stream.
    pub(crate) fn open(&self, stream: usize) {
        lock(&self.queues).entry(stream).or_default();
    }

    /// Closes the queue of a stream; marks in it count as reached.
    pub(crate) fn close(&self, stream: usize) {
        lock(&self.queues).remove(&stream);
    }

    /// Tells the mark of the last submission to a stream, if it has not run yet.
    pub(crate) fn pending(&self, stream: usize) -> Option<Mark> {
        let queues = lock(&self.queues);
        queues.get(&stream).filter(|q| q.completed < q.submitted).map(|q| (stream, q.submitted))
    }

    /// Tells whether a mark has been reached.
    pub(crate) fn is_reached(&self, mark: Mark) -> bool {
        lock(&self.queues).get(&mark.0).is_none_or(|queue| queue.completed >= mark.1)
    }

    /// Tells the mark of the last submission to a stream, run or not.
    pub(crate) fn last(&self, stream: usize) -> Mark {
        (stream, lock(&self.queues).get(&stream).map_or(0, |queue| queue.submitted))
    }

    /// Appends work to a stream and runs what the order wants to run now.
    pub(crate) fn submit(&self, stream: usize, context: &Arc<Context>, work: Work, after: Vec<Mark>) -> Mark {
        let (mark, completed) = {
            let mut queues = lock(&self.queues);
            let queue = queues.entry(stream).or_default();
            queue.submitted += 1;
            queue.waiting.push_back(Operation { context: context.clone(), work, after });
            ((stream, queue.submitted), queue.completed)
        };
        match self.device.interleaving.order {
            Order::Eager => self.run_to(mark),
            Order::Lazy if mark.1 - completed > QUEUE_LIMIT => self.run_to((stream, completed + QUEUE_LIMIT / 2)),
            Order::Lazy => {}
            Order::Seeded(_) => self.run_some(),
        }
        mark
    }

    /// Runs work until a mark is reached, and only what that needs.
    pub(crate) fn run_to(&self, mark: Mark) {
        let _running = lock(&self.running);
        let mut goals = vec![mark];
        while let Some(&goal) = goals.last() {
            match self.step(goal) {
                Step::Reached => drop(goals.pop()),
                Step::Blocked(mark) => goals.push(mark),
                Step::Ready(operation) => {
                    run(&self.device, &operation);
                    if let Some(queue) = lock(&self.queues).get_mut(&goal.0) {
                        queue.completed += 1;
                    }
                }
            }
        }
    }

    /// Tells whether a mark has been reached: `CUDA_ERROR_NOT_READY` if not. A program that polls must get on without this
    /// call ever waiting, so another thread then runs what the mark needs.
    pub(crate) fn query(&'static self, mark: Mark) -> Result<()> {
        if self.is_reached(mark) {
            return Ok(());
        }
        let runner = self.background.get_or_init(|| {
            let (sender, receiver) = channel();
            thread::spawn(move || receiver.into_iter().for_each(|mark| self.run_to(mark)));
            sender
        });
        match runner.send(mark) {
            Ok(()) => Err(Code::NOT_READY.into()),
            Err(_) => Err(Code::UNKNOWN.because("the thread that runs polled work has ended")),
        }
    }

    /// Runs everything submitted so far, on every stream.
    pub(crate) fn run_all(&self) {
        let mut marks: Vec<Mark> = {
            let queues = lock(&self.queues);
            queues.iter().filter(|(_, q)| q.completed < q.submitted).map(|(&s, q)| (s, q.submitted)).collect()
        };
        // Youngest stream first: whatever order the program did not ask for is not given.
        marks.sort_by_key(|&mark| std::cmp::Reverse(mark));
        for mark in marks {
            self.run_to(mark);
        }
    }

    /// Runs a random number of operations on random streams.
    fn run_some(&self) {
        loop {
            let goal = {
                let interleaving = &self.device.interleaving;
                if interleaving.below(2) == 0 {
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
                ready[interleaving.below(ready.len())]
            };
            self.run_to(goal);
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
}

/// Runs one operation; a failure ends its context, and in an ended context only memory is still given back.
fn run(device: &Device, operation: &Operation) {
    if operation.context.is_poisoned() {
        operation.work.abandon(device);
        return;
    }
    if let Err(error) = operation.work.run(device) {
        let reason = error.message.as_deref().unwrap_or("asynchronous work failed");
        eprintln!("simcuda: {}: {reason}", error.code);
        operation.context.poison(error.code);
    }
}
