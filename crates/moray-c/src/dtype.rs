//! Element types.

/// The type of elements: one of the `MORAY_F..` constants.
pub type MorayDtype = u32;

/// 4 bytes.
pub const MORAY_F32: MorayDtype = 0;
/// IEEE half precision.
pub const MORAY_F16: MorayDtype = 1;
/// bfloat16.
pub const MORAY_BF16: MorayDtype = 2;

/// Runs an expression with `$E` as the Rust type of a [`MorayDtype`].
macro_rules! with_dtype {
    ($what:expr, $dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::MORAY_F32 => {
                type $E = f32;
                $body
            }
            $crate::MORAY_F16 => {
                type $E = half::f16;
                $body
            }
            $crate::MORAY_BF16 => {
                type $E = half::bf16;
                $body
            }
            other => {
                let expected = "MORAY_F32, MORAY_F16 or MORAY_BF16";
                return Err($crate::status::Fault::unsupported($what, expected, other));
            }
        }
    };
}
pub(crate) use with_dtype;
