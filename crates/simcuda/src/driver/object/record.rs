//! When an event's records were reached.

use std::sync::Mutex;
use std::time::Instant;

use crate::driver::registry::lock;

/// The newest record that has been reached, by its number, and when.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Option<(u64, Instant)>>);

impl Record {
    /// Notes that the n-th record has been reached; an older one does not overwrite the time of a newer one.
    pub(crate) fn complete(&self, generation: u64) {
        let mut newest = lock(&self.0);
        if newest.is_none_or(|(reached, _)| reached <= generation) {
            *newest = Some((generation, Instant::now()));
        }
    }

    /// Tells when the n-th record was reached, if it is the newest that was.
    pub(crate) fn reached_at(&self, generation: u64) -> Option<Instant> {
        lock(&self.0).filter(|(reached, _)| *reached == generation).map(|(_, at)| at)
    }
}
