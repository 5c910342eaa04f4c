//! Result codes: the numbers and names of CUDA's driver API, described in our own words.

use std::ffi::CStr;
use std::fmt;

/// One `CUresult` value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) i32);

impl Code {
    pub(crate) const INVALID_VALUE: Self = Self(1);
    pub(crate) const OUT_OF_MEMORY: Self = Self(2);
    pub(crate) const NOT_INITIALIZED: Self = Self(3);
    pub(crate) const NO_DEVICE: Self = Self(100);
    pub(crate) const INVALID_DEVICE: Self = Self(101);
    pub(crate) const INVALID_IMAGE: Self = Self(200);
    pub(crate) const INVALID_CONTEXT: Self = Self(201);
    pub(crate) const NO_BINARY_FOR_GPU: Self = Self(209);
    pub(crate) const UNSUPPORTED_LIMIT: Self = Self(215);
    pub(crate) const INVALID_PTX: Self = Self(218);
    pub(crate) const UNSUPPORTED_PTX_VERSION: Self = Self(222);
    pub(crate) const FILE_NOT_FOUND: Self = Self(301);
    pub(crate) const INVALID_HANDLE: Self = Self(400);
    pub(crate) const ILLEGAL_STATE: Self = Self(401);
    pub(crate) const NOT_FOUND: Self = Self(500);
    pub(crate) const NOT_READY: Self = Self(600);
    pub(crate) const ILLEGAL_ADDRESS: Self = Self(700);
    pub(crate) const LAUNCH_OUT_OF_RESOURCES: Self = Self(701);
    pub(crate) const LAUNCH_TIMEOUT: Self = Self(702);
    pub(crate) const CONTEXT_IS_DESTROYED: Self = Self(709);
    pub(crate) const ASSERT: Self = Self(710);
    pub(crate) const HOST_MEMORY_ALREADY_REGISTERED: Self = Self(712);
    pub(crate) const HOST_MEMORY_NOT_REGISTERED: Self = Self(713);
    pub(crate) const MISALIGNED_ADDRESS: Self = Self(716);
    pub(crate) const LAUNCH_FAILED: Self = Self(719);
    pub(crate) const COOPERATIVE_LAUNCH_TOO_LARGE: Self = Self(720);
    pub(crate) const NOT_PERMITTED: Self = Self(800);
    pub(crate) const NOT_SUPPORTED: Self = Self(801);
    pub(crate) const STREAM_CAPTURE_UNSUPPORTED: Self = Self(900);
    pub(crate) const STREAM_CAPTURE_INVALIDATED: Self = Self(901);
    pub(crate) const STREAM_CAPTURE_MERGE: Self = Self(902);
    pub(crate) const STREAM_CAPTURE_UNMATCHED: Self = Self(903);
    pub(crate) const STREAM_CAPTURE_UNJOINED: Self = Self(904);
    pub(crate) const STREAM_CAPTURE_ISOLATION: Self = Self(905);
    pub(crate) const STREAM_CAPTURE_IMPLICIT: Self = Self(906);
    pub(crate) const CAPTURED_EVENT: Self = Self(907);
    pub(crate) const STREAM_CAPTURE_WRONG_THREAD: Self = Self(908);
    pub(crate) const INVALID_CLUSTER_SIZE: Self = Self(912);
    pub(crate) const UNKNOWN: Self = Self(999);

    /// Makes an error of this code that prints `message` on stderr when it reaches the caller.
    pub(crate) fn because(self, message: impl fmt::Display) -> Error {
        Error { code: self, message: Some(message.to_string()) }
    }

    /// Tells the name, as `CUDA_ERROR_INVALID_VALUE`; none for a number that CUDA does not define.
    pub(crate) fn name(self) -> Option<&'static CStr> {
        CODES.iter().find(|entry| entry.0 == self.0).map(|entry| entry.1)
    }

    /// Tells the description.
    pub(crate) fn description(self) -> Option<&'static CStr> {
        CODES.iter().find(|entry| entry.0 == self.0).map(|entry| entry.2)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({})", name.to_string_lossy(), self.0),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// A refused call: its code and, where it deserves one, the line for stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) code: Code,
    pub(crate) message: Option<String>,
}

impl From<Code> for Error {
    fn from(code: Code) -> Self {
        Self { code, message: None }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// (number, name, description)
const CODES: &[(i32, &CStr, &CStr)] = &[
    (0, c"CUDA_SUCCESS", c"success"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"an argument is outside its allowed range"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"not enough memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"cuInit has not been called"),
    (4, c"CUDA_ERROR_DEINITIALIZED", c"the driver is shutting down"),
    (5, c"CUDA_ERROR_PROFILER_DISABLED", c"the profiler is disabled"),
    (6, c"CUDA_ERROR_PROFILER_NOT_INITIALIZED", c"the profiler is not initialised"),
    (7, c"CUDA_ERROR_PROFILER_ALREADY_STARTED", c"the profiler runs already"),
    (8, c"CUDA_ERROR_PROFILER_ALREADY_STOPPED", c"the profiler has been stopped already"),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"a stub of the driver library was loaded"),
    (36, c"CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", c"the call needs a newer driver"),
    (46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"the device is unavailable"),
    (47, c"CUDA_ERROR_MULTICAST_RESOURCE_FULL", c"no multicast resources are left"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"no device"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"no device of this ordinal"),
    (102, c"CUDA_ERROR_DEVICE_NOT_LICENSED", c"the device has no licence"),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"the image is neither PTX nor a fatbin"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"no current context, or the context is not valid"),
    (202, c"CUDA_ERROR_CONTEXT_ALREADY_CURRENT", c"the context is current already"),
    (205, c"CUDA_ERROR_MAP_FAILED", c"mapping failed"),
    (206, c"CUDA_ERROR_UNMAP_FAILED", c"unmapping failed"),
    (207, c"CUDA_ERROR_ARRAY_IS_MAPPED", c"the array is mapped"),
    (208, c"CUDA_ERROR_ALREADY_MAPPED", c"the resource is mapped already"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"the image holds no code for this device"),
    (210, c"CUDA_ERROR_ALREADY_ACQUIRED", c"the resource is acquired already"),
    (211, c"CUDA_ERROR_NOT_MAPPED", c"the resource is not mapped"),
    (212, c"CUDA_ERROR_NOT_MAPPED_AS_ARRAY", c"the resource is not mapped as an array"),
    (213, c"CUDA_ERROR_NOT_MAPPED_AS_POINTER", c"the resource is not mapped as a pointer"),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"an uncorrectable memory error"),
    (215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"the limit is not supported"),
    (216, c"CUDA_ERROR_CONTEXT_ALREADY_IN_USE", c"the context is in use by another thread"),
    (217, c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", c"peer access is not supported"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"the PTX text is not valid"),
    (219, c"CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", c"the graphics context is not valid"),
    (220, c"CUDA_ERROR_NVLINK_UNCORRECTABLE", c"an uncorrectable link error"),
    (221, c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND", c"no PTX compiler"),
    (222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the PTX version is newer than this driver"),
    (223, c"CUDA_ERROR_JIT_COMPILATION_DISABLED", c"PTX compilation is disabled"),
    (224, c"CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", c"the execution affinity is not supported"),
    (225, c"CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC", c"synchronisation from device code is not supported"),
    (226, c"CUDA_ERROR_CONTAINED", c"an error that was contained"),
    (227, c"CUDA_ERROR_INSUFFICIENT_LOADER_VERSION", c"the loader is too old"),
    (300, c"CUDA_ERROR_INVALID_SOURCE", c"the source is not valid"),
    (301, c"CUDA_ERROR_FILE_NOT_FOUND", c"no such file"),
    (302, c"CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", c"a shared object lacks a symbol"),
    (303, c"CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", c"a shared object did not initialise"),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"an operating system call failed"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"not a handle of this kind"),
    (401, c"CUDA_ERROR_ILLEGAL_STATE", c"the object is in the wrong state for this call"),
    (402, c"CUDA_ERROR_LOSSY_QUERY", c"the query would lose data"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"no such name"),
    (600, c"CUDA_ERROR_NOT_READY", c"not finished yet"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"a kernel accessed memory that is not allocated"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"the launch needs more resources than the device has"),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the kernel ran longer than it may"),
    (703, c"CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", c"incompatible texturing mode"),
    (704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"peer access is enabled already"),
    (705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"peer access is not enabled"),
    (708, c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", c"the primary context is active"),
    (709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"the context is destroyed"),
    (710, c"CUDA_ERROR_ASSERT", c"a device-side assertion failed"),
    (711, c"CUDA_ERROR_TOO_MANY_PEERS", c"too many peers"),
    (712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"the host memory is registered already"),
    (713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"the host memory is not registered"),
    (714, c"CUDA_ERROR_HARDWARE_STACK_ERROR", c"device stack error"),
    (715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"illegal instruction"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"a kernel accessed a misaligned address"),
    (717, c"CUDA_ERROR_INVALID_ADDRESS_SPACE", c"an instruction was given an address of the wrong space"),
    (718, c"CUDA_ERROR_INVALID_PC", c"the program counter left the kernel"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"the kernel failed"),
    (720, c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", c"a cooperative launch has more blocks than fit together"),
    (721, c"CUDA_ERROR_TENSOR_MEMORY_LEAK", c"tensor memory was not given back"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"not permitted here"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"not supported"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"the system is not ready"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"driver and system do not match"),
    (804, c"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", c"compatibility mode is not supported on this device"),
    (805, c"CUDA_ERROR_MPS_CONNECTION_FAILED", c"no connection to the multi-process service"),
    (806, c"CUDA_ERROR_MPS_RPC_FAILURE", c"the multi-process service failed"),
    (807, c"CUDA_ERROR_MPS_SERVER_NOT_READY", c"the multi-process service is not ready"),
    (808, c"CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", c"the multi-process service has too many clients"),
    (809, c"CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", c"the multi-process service has too many connections"),
    (810, c"CUDA_ERROR_MPS_CLIENT_TERMINATED", c"the multi-process client was ended"),
    (811, c"CUDA_ERROR_CDP_NOT_SUPPORTED", c"launches from device code are not supported"),
    (812, c"CUDA_ERROR_CDP_VERSION_MISMATCH", c"launches from device code are of another version"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"not allowed while a stream is captured"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"the capture was invalidated by an earlier error"),
    (902, c"CUDA_ERROR_STREAM_CAPTURE_MERGE", c"the call would merge two captures"),
    (903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"the capture was not begun in this stream"),
    (904, c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", c"the capture has work that was not joined to its first stream"),
    (905, c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", c"the capture would depend on uncaptured work"),
    (906, c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", c"the call would implicitly wait for a captured stream"),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"the event was last recorded in a capture"),
    (908, c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", c"the capture was begun by another thread"),
    (909, c"CUDA_ERROR_TIMEOUT", c"timed out"),
    (910, c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", c"the graph does not match the executable graph"),
    (911, c"CUDA_ERROR_EXTERNAL_DEVICE", c"an external device failed"),
    (912, c"CUDA_ERROR_INVALID_CLUSTER_SIZE", c"the cluster shape is not possible"),
    (913, c"CUDA_ERROR_FUNCTION_NOT_LOADED", c"the function is not loaded"),
    (914, c"CUDA_ERROR_INVALID_RESOURCE_TYPE", c"the resource type is not valid"),
    (915, c"CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION", c"the resource configuration is not valid"),
    (916, c"CUDA_ERROR_KEY_ROTATION", c"a key rotation failed"),
    (917, c"CUDA_ERROR_STREAM_DETACHED", c"the stream is detached"),
    (918, c"CUDA_ERROR_GRAPH_RECAPTURE_FAILURE", c"the graph was captured again with another shape"),
    (919, c"CUDA_ERROR_FABRIC_NOT_READY", c"the fabric is not ready"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];
