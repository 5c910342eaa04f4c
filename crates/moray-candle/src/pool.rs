//! Buffers that calls use again.

use std::sync::{Mutex, PoisonError};

/// Things that are made for a call and kept for the next, as many as there were calls at once.
#[derive(Debug)]
pub(crate) struct Pool<T>(Mutex<Vec<T>>);

impl<T> Pool<T> {
    pub(crate) const fn new() -> Self {
        Pool(Mutex::new(Vec::new()))
    }

    /// Takes one that fits, if any does.
    pub(crate) fn take(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.iter().position(fits)?;
        Some(kept.swap_remove(index))
    }

    /// Keeps one for a later call.
    pub(crate) fn give(&self, one: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(one);
    }
}
