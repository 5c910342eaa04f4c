//! What can be computed where, and how.

use crate::arguments::{give, sized};
use crate::attention::MORAY_INT8;
use crate::cpu::{MORAY_ARCH_CUDA, MORAY_ARCH_NATIVE, MorayArch, isa};
use crate::dtype::{MorayDtype, with_dtype};
use crate::format::MorayFormat;
use crate::status::{Fault, MorayStatus, Outcome, guard};
use moray::w4a8::{Bits, Format, GroupScale, Offset};
use std::cell::RefCell;
use std::ffi::{CString, c_char};

/// An operation: one of the `MORAY_OP_..` constants.
pub type MorayOp = u32;

/// `moray_linear`: format of the weight, type of y.
pub const MORAY_OP_LINEAR: MorayOp = 1;
/// `moray_mlp_forward`: format of the three matrices, or their type where they are not quantized.
pub const MORAY_OP_SPARSE_MLP: MorayOp = 2;
/// `moray_attend`: type of the cache; its format has 0 bits.
pub const MORAY_OP_ATTENTION: MorayOp = 3;
/// `moray_by_input`: format of the weight, or its type where it is not quantized.
pub const MORAY_OP_BY_INPUT: MorayOp = 4;

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
    let arithmetic = match query.op {
        MORAY_OP_LINEAR => linear(query)?,
        MORAY_OP_SPARSE_MLP => by_rows(query, "products and sums in f32 over fixed lanes")?,
        MORAY_OP_BY_INPUT => {
            by_rows(query, "products and sums in f32 by fma over quarters of K, kept inputs in order")?
        }
        MORAY_OP_ATTENTION => attention(query)?,
        other => return Err(Fault::unsupported("op", "a MORAY_OP_ constant", other)),
    };
    let place = place(query)?;
    Ok(arithmetic.and_then(|arithmetic| Ok(format!("{arithmetic}; {}", place?))))
}

fn linear(query: &MorayQuery) -> Outcome<Result<String, String>> {
    element(query.dtype)?;
    Ok(checked(query.format.read()?).map(arithmetic))
}

/// Of weights whose rows are read one by one.
fn by_rows(query: &MorayQuery, sums_of_floats: &str) -> Outcome<Result<String, String>> {
    let element = element(query.dtype)?;
    if query.format.bits == 0 {
        return Ok(Ok(format!("weights in {element}, {sums_of_floats}")));
    }
    let format = query.format.read()?;
    let rows = matches!(format.group_scale(), None | Some(GroupScale::F16)) && format.bits == Bits::Four;
    let refused = || "format: expected 4-bit codes with scales of channels or f16 of groups, got another".to_owned();
    Ok(checked(format).and_then(|format| if rows { Ok(arithmetic(format)) } else { Err(refused()) }))
}

fn attention(query: &MorayQuery) -> Outcome<Result<String, String>> {
    let stored = if query.dtype == MORAY_INT8 { "int8 with a scale for each row" } else { element(query.dtype)? };
    if query.format.bits != 0 {
        return Ok(Err(format!("format.bits: expected 0, got {}", query.format.bits)));
    }
    Ok(Ok(format!("keys and values stored in {stored}, scores, softmax and sums in f32")))
}

fn element(dtype: MorayDtype) -> Outcome<&'static str> {
    with_dtype!("dtype", dtype, E => Ok(<E as moray::element::Element>::NAME))
}

/// The format, if its parts go together; asked for a matrix that has every group whole.
fn checked(format: Format) -> Result<Format, String> {
    format.check(16, 128).map(|()| format).map_err(|error| error.to_string())
}

/// Which code runs on an architecture, or why none.
fn place(query: &MorayQuery) -> Outcome<Result<String, String>> {
    let arch = query.arch;
    if arch >= MORAY_ARCH_CUDA {
        return Ok(crate::cuda::place(query));
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
