//! Handles: numbers that look like pointers to the caller and are only ever looked up here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codes::{Code, Result};

/// Locks a mutex whose data stays consistent even if a holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws a number that no other object has; never one of CUDA's special handles 0, 1 and 2.
pub(crate) fn fresh_id() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    0x51c0_0000_0000 + NEXT.fetch_add(1, Ordering::Relaxed) * 16
}

/// The live objects of one kind by handle.
pub(crate) struct Registry<T>(Mutex<HashMap<usize, Arc<T>>>);

impl<T> Registry<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Adds an object under its handle.
    pub(crate) fn insert(&self, handle: usize, object: Arc<T>) {
        lock(&self.0).insert(handle, object);
    }

    /// Finds an object; `CUDA_ERROR_INVALID_HANDLE` if the handle is not, or no longer, of this kind.
    pub(crate) fn get(&self, handle: usize) -> Result<Arc<T>> {
        lock(&self.0).get(&handle).cloned().ok_or_else(|| Code::INVALID_HANDLE.into())
    }

    /// Takes an object out; the handle is invalid from then on.
    pub(crate) fn remove(&self, handle: usize) -> Result<Arc<T>> {
        lock(&self.0).remove(&handle).ok_or_else(|| Code::INVALID_HANDLE.into())
    }

    /// Lists the live objects.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Drops the objects that `keep` refuses.
    pub(crate) fn retain(&self, keep: impl Fn(&T) -> bool) {
        lock(&self.0).retain(|_, object| keep(object));
    }
}
