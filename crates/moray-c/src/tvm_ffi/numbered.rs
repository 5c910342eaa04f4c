//! What callers have by number: objects of the library's, which an integer stands for.

use crate::status::{Fault, Outcome};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Objects of one kind by their numbers, which begin at 1 and are never given twice.
pub(super) struct Numbered<T> {
    what: &'static str,
    expected: &'static str,
    held: Mutex<(i64, BTreeMap<i64, Arc<T>>)>,
}

impl<T> Numbered<T> {
    /// `what` is the argument that refusals name, `expected` what they say of it.
    pub(super) const fn new(what: &'static str, expected: &'static str) -> Self {
        Numbered { what, expected, held: Mutex::new((0, BTreeMap::new())) }
    }

    fn lock(&self) -> MutexGuard<'_, (i64, BTreeMap<i64, Arc<T>>)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds an object and gives its number.
    pub(super) fn add(&self, object: T) -> i64 {
        let mut held = self.lock();
        held.0 += 1;
        let number = held.0;
        held.1.insert(number, Arc::new(object));
        number
    }

    pub(super) fn get(&self, number: usize) -> Outcome<Arc<T>> {
        self.known(number, self.lock().1.get(&(number as i64)).map(Arc::clone))
    }

    /// Forgets an object; calls that run with it end first.
    pub(super) fn remove(&self, number: usize) -> Outcome {
        let found = self.lock().1.remove(&(number as i64));
        self.known(number, found).map(drop)
    }

    fn known(&self, number: usize, found: Option<Arc<T>>) -> Outcome<Arc<T>> {
        found.ok_or_else(|| Fault::unsupported(self.what, self.expected, number))
    }
}
