//! What can be computed where, and how.

use crate::arguments::{give, sized};
use crate::cpu::{MORAY_ARCH_CUDA, MORAY_ARCH_NATIVE, MorayArch, isa};
use crate::dtype::{MORAY_BF16, MORAY_F16, MORAY_F32, MorayDtype};
use crate::format::MorayFormat;
use crate::status::{Fault, MorayStatus, Outcome, guard};
use moray::w4a8::{Bits, Format, GroupScale, Offset};
use std::cell::RefCell;
use std::ffi::{CString, c_char};

/// An operation: one of the `MORAY_OP_..` constants.
pub type MorayOp = u32;

/// `moray_linear`: format of the weight, type of y.
pub const MORAY_OP_LINEAR: MorayOp = 1;

/// A question about an operation.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayQuery {
    /// `sizeof(MorayQuery)`.
    pub struct_size: u32,
    /// The operation.
    pub op: MorayOp,
    /// Of the weights; bits 0 for weights that are not quantized.
    pub format: MorayFormat,
    /// The type that the operation's constant names.
    pub dtype: MorayDtype,
    /// Where it would run.
    pub arch: MorayArch,
}

/// An answer.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MoraySupport {
    /// 1 if it runs, 0 if not.
    pub supported: u32,
    /// The arithmetic of a call in words if it runs, else why it does not; until the next question of this thread.
    pub words: *const c_char,
}

thread_local! {
    static WORDS: RefCell<CString> = RefCell::new(CString::default());
}

/// Says whether an operation runs with a format, an element type and an architecture, by which arithmetic, or why not.
///
/// Fails with `MORAY_STATUS_UNSUPPORTED` for numbers that are none of the constants.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_supports(query: *const MorayQuery, out: *mut MoraySupport) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let query = unsafe { sized("query", query)? };
        let (supported, words) = match answer(query)? {
            Ok(arithmetic) => (1, arithmetic),
            Err(reason) => (0, reason),
        };
        let words = WORDS.with(|kept| {
            kept.replace(CString::new(words).unwrap_or_default());
            kept.borrow().as_ptr()
        });
        // SAFETY: the caller's.
        unsafe { give("out", out, MoraySupport { supported, words }) }
    })
}

/// The arithmetic, or the reason against it; a fault where there is no such question.
fn answer(query: &MorayQuery) -> Outcome<Result<String, String>> {
    if ![MORAY_F32, MORAY_F16, MORAY_BF16].contains(&query.dtype) {
        return Err(Fault::unsupported("dtype", "MORAY_F32, MORAY_F16 or MORAY_BF16", query.dtype));
    }
    let place = match place(query.arch)? {
        Ok(place) => place,
        Err(reason) => return Ok(Err(reason)),
    };
    match query.op {
        MORAY_OP_LINEAR => {
            let format = query.format.read()?;
            // the sizes of a matrix that has every group whole
            Ok(match format.check(16, 128) {
                Ok(()) => Ok(format!("{}; {place}", arithmetic(format))),
                Err(error) => Err(error.to_string()),
            })
        }
        other => Err(Fault::unsupported("op", "a MORAY_OP_ constant", other)),
    }
}

/// Which code runs on an architecture, or why none.
fn place(arch: MorayArch) -> Outcome<Result<String, String>> {
    if arch >= MORAY_ARCH_CUDA {
        return Ok(Err("arch: expected a CPU, as this library is built without CUDA".into()));
    }
    let isa = isa(arch)?;
    if arch != MORAY_ARCH_NATIVE && !isa.is_available() {
        return Ok(Err(format!("arch: expected an instruction set of this machine, got {}", isa.name())));
    }
    Ok(Ok(format!("code for {}, whose bits are those of every other", isa.name())))
}

/// The definition of a product with weights of a format, in words.
fn arithmetic(format: Format) -> String {
    let bits = if format.bits == Bits::Four { 4 } else { 8 };
    let sums = |over: &str| format!("int8 activations times {bits}-bit codes, exact in int32 over {over}");
    let Some(size) = format.group_size() else {
        return format!("{}, then one f32 product with the scales of token and channel", sums("K"));
    };
    match (format.group_scale(), format.offset()) {
        (Some(GroupScale::Integer), _) => format!(
            "{}, each product times the whole scale of its group of {size}; then one f32 product with the scales of token and channel",
            sums("K")
        ),
        (Some(GroupScale::Qqq), _) => format!(
            "int8 activations times int8 weights (code times the scale of its group of {size}, rounded once), exact in int32 over K; \
             then one f32 product with the scales of token and channel"
        ),
        (_, offset) => {
            let besides = match offset {
                Offset::None => "",
                Offset::F16 => ", and with the offset times the group's sum of activations",
                Offset::ZeroPoint => " after its zero point",
            };
            let over = format!("{size} of K");
            format!(
                "{}, groups added in f32 by fma with their scale{besides}, then the scale of the token",
                sums(&over)
            )
        }
    }
}
