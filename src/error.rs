//! The error type of every operation.

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation refused its arguments. Arguments are checked before anything is written; where what is found is a
/// [`Error::Value`] of results (numbers that have overflowed), or what a driver says, outputs may hold parts of them.
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
    /// There is no CUDA driver.
    #[error("expected a CUDA driver, got: {message}")]
    DriverAbsent {
        /// What the loader said.
        message: String,
    },
    /// The CUDA driver lacks functions that are needed.
    #[error("expected a CUDA driver of version {expected} or later, got {got}")]
    DriverTooOld {
        /// 1000 · major + 10 · minor of the oldest that will do.
        expected: i32,
        /// The driver's.
        got: i32,
    },
    /// The crate was built without a CUDA compiler.
    #[error("the CUDA kernels are not built: {hint}")]
    KernelsNotBuilt {
        /// How to build them.
        hint: &'static str,
    },
    /// There are no kernels for the device.
    #[error(
        "device: expected compute capability {}.{} or later among those the kernels were built for, got {}.{}",
        expected.0, expected.1, got.0, got.1
    )]
    UnsupportedArchitecture {
        /// The oldest compute capability with kernels: major, minor.
        expected: (u32, u32),
        /// The device's.
        got: (u32, u32),
    },
    /// The device's memory is full.
    #[error("expected {bytes} free bytes of device memory, got fewer")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A buffer on the device does not start where kernels can read it.
    #[error("{what}: expected an address that is a multiple of {expected}, got {got:#x}")]
    Misaligned {
        /// The argument, by its name in the documentation.
        what: &'static str,
        /// Bytes.
        expected: u64,
        /// The address.
        got: u64,
    },
    /// Memory that kernels of the device cannot reach.
    #[error("{what}: expected memory that kernels of the context reach, got {got}")]
    Elsewhere {
        /// The argument, by its name in the documentation.
        what: &'static str,
        /// Whose memory the driver says it is.
        got: String,
    },
    /// A kernel could not be started.
    #[error("{kernel}: expected the kernel to start, got {message}")]
    Launch {
        /// Its symbol.
        kernel: &'static str,
        /// What the driver said.
        message: String,
    },
    /// The driver refused a call.
    #[error("driver: expected to {call}, got {message}")]
    Driver {
        /// What was tried, as a verb.
        call: &'static str,
        /// What the driver said; after a kernel that went wrong, every call says it.
        message: String,
    },
}

/// Checks a buffer's length.
pub(crate) fn check_len(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

/// Multiplies sizes, such as the elements of a buffer.
///
/// # Errors
/// [`Error::Shape`] for a product past `isize::MAX`, which no buffer can have; it names the first size.
pub(crate) fn product(what: &'static str, sizes: &[usize]) -> Result<usize> {
    let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let expected = "sizes whose product can be counted";
    let got = sizes.first().copied().unwrap_or(0);
    product.filter(|&product| isize::try_from(product).is_ok()).ok_or(Error::Shape { what, expected, got })
}
