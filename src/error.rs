//! The error type of every operation.

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation refused its arguments. Nothing has been written when one is returned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer or dimension has the wrong size.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// The argument, by its name in the documentation.
        what: &'static str,
        /// Elements the other arguments ask for.
        expected: usize,
        /// Elements found.
        got: usize,
    },
    /// A size does not fit the operation.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// The argument, by its name in the documentation.
        what: &'static str,
        /// The rule it breaks.
        expected: &'static str,
        /// The value found.
        got: usize,
    },
    /// An index lies outside its range.
    #[error("{what}: expected an index below {limit}, got {got}")]
    Index {
        /// The list the index is in.
        what: &'static str,
        /// First index that is too large.
        limit: usize,
        /// The index found.
        got: usize,
    },
    /// A list names the same index twice or is not sorted where order is required.
    #[error("{what}: expected strictly increasing indices, got {got} after {previous}")]
    NotIncreasing {
        /// The list.
        what: &'static str,
        /// The index before.
        previous: usize,
        /// The index found.
        got: usize,
    },
    /// A value is NaN, infinite or outside the range that makes sense.
    #[error("{what}: expected {expected}, got {got}")]
    Value {
        /// The argument.
        what: &'static str,
        /// The rule it breaks.
        expected: &'static str,
        /// The value found.
        got: f32,
    },
    /// A string or combination of options is not supported.
    #[error("{what}: expected {expected}, got {got}")]
    Unsupported {
        /// The argument.
        what: &'static str,
        /// What is supported.
        expected: &'static str,
        /// What was asked for.
        got: String,
    },
}

/// Checks a buffer's length.
pub(crate) fn check_len(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}
