//! Paths in reports: as text, with U+FFFD for what is none, so that no path keeps a report from being written.

use std::path::Path;

use serde::Serializer;

/// Serializes a path as [`Path::display`] shows it.
pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
