//! Attention over a cache in tensors of a CUDA device.

use super::{CUDA, NONE, bytes, stream};
use crate::arguments::MorayBytes;
use crate::attention::{MORAY_KV_HOLE, MORAY_KV_WRITE_ALL, MORAY_KV_ZERO};
#[cfg(feature = "cuda-attention")]
use crate::cuda::call::{launch, prepare};
#[cfg(not(feature = "cuda-attention"))]
use crate::cuda::no_operation::{launch, prepare};
use crate::cuda::of_number;
use crate::status::{Fault, Outcome};
use crate::tvm_ffi::attention::{Heads, pages};
use crate::tvm_ffi::call::Arguments;
use crate::tvm_ffi::functions::Returned;
use crate::tvm_ffi::tensor::{F32, Rows, Strided};
use crate::{MORAY_KV_KEEP, MorayCudaAttend, MorayCudaSpans, MorayCudaWriteKv};

/// The tokens of a call: `(records: i32 [spans, 4], longest)`.
struct Tokens {
    records: Rows,
    longest: usize,
}

impl Tokens {
    /// # Safety
    /// As [`Arguments::tensor`].
    unsafe fn of(arguments: &mut Arguments<'_>) -> Outcome<Self> {
        // SAFETY: the caller's.
        let records = unsafe { arguments.tensor("records")? }.words("records")?;
        let [count, _] = records.matrix("records")?;
        Ok(Tokens { records: records.shaped("records", &[count, 4])?, longest: arguments.size("longest")? })
    }

    fn spans(&self, heads: &Heads, rows: usize, [n_q_heads, n_kv_heads, head_dim]: [usize; 3]) -> MorayCudaSpans {
        MorayCudaSpans {
            records: self.records.read(),
            n_spans: self.records.shape[0],
            longest: self.longest,
            rows,
            heads: heads.kind,
            list: heads.list,
            counts: heads.counts,
            width: heads.width,
            n_q_heads,
            n_kv_heads,
            head_dim,
        }
    }
}

/// Tokens [M, heads, head_dim] that may be apart.
fn tokens_of(what: &'static str, found: &Strided, of: Option<[usize; 3]>) -> Outcome<[usize; 3]> {
    let shape = <[usize; 3]>::try_from(&found.shape[..]);
    let fits = |&shape: &[usize; 3]| of.is_none_or(|of| of == shape) && found.strides[1] == shape[2];
    shape.ok().filter(fits).ok_or_else(|| {
        let of = of.map_or("[M, heads, head_dim]".to_owned(), |of| format!("{of:?}"));
        let expected = format!("{of} with the heads of a token one after another");
        let got = format!("shape {:?} with strides {:?}", found.shape, found.strides);
        Fault::Argument { what, expected, got }
    })
}

/// `(k, v, q, q_out, rope, records, longest, policy, n_q_heads, heads.., pages..)`
pub(in crate::tvm_ffi) unsafe fn cuda_write_kv(arguments: &mut Arguments<'_>) -> Returned {
    arguments.expect_device(CUDA);
    // SAFETY: the caller's.
    let (k, v) = unsafe { (arguments.strided("k")?, arguments.strided("v")?) };
    let [m, n_kv_heads, head_dim] = tokens_of("k", &k, None)?;
    tokens_of("v", &v, Some([m, n_kv_heads, head_dim]))?;
    if (v.strides[0], v.dtype) != (k.strides[0], k.dtype) {
        let expected = format!("the type of k, and tokens {} elements apart", k.strides[0]);
        return Err(Fault::Argument { what: "v", expected, got: format!("{} apart", v.strides[0]) });
    }
    // SAFETY: the caller's.
    let (q, q_out) = unsafe { (arguments.optional_strided("q")?, arguments.optional("q_out")?) };
    // SAFETY: the caller's.
    let rope = unsafe { arguments.optional("rope")? }.map(|rows| rows.of("rope", F32)).transpose()?;
    // SAFETY: the caller's.
    let tokens = unsafe { Tokens::of(arguments)? };
    let names =
        [("write_all", MORAY_KV_WRITE_ALL), ("hole", MORAY_KV_HOLE), ("zero", MORAY_KV_ZERO), ("keep", MORAY_KV_KEEP)];
    // SAFETY: the caller's.
    let policy = unsafe { arguments.name("policy", &names)? };
    let n_q_heads = arguments.size("n_q_heads")?;
    // SAFETY: the caller's.
    let (heads, (kv, _)) = unsafe { (Heads::of(arguments)?, pages(arguments, Some(n_kv_heads), head_dim)?) };
    arguments.end()?;
    let queries = [m, n_q_heads, head_dim];
    if let Some(q) = &q {
        tokens_of("q", q, Some(queries))?;
        if q.dtype != k.dtype {
            return Err(Fault::unsupported("q", "elements of k's type", "another"));
        }
    }
    let q_out = q_out.map(|rows| rows.of("q_out", F32)?.shaped("q_out", &queries)).transpose()?;
    let context = rope.as_ref().map(|rope| rope.matrix("rope")).transpose()?;
    if let Some(got) = context.filter(|&[_, width]| width != head_dim) {
        return Err(Fault::Sizes { what: "rope", expected: vec![got[0], head_dim], got: got.to_vec() });
    }
    if m == 0 || tokens.records.shape[0] == 0 {
        return Ok(None);
    }
    let call = MorayCudaWriteKv {
        struct_size: size_of::<MorayCudaWriteKv>() as u32,
        dtype: k.float("k")?,
        policy,
        kv,
        spans: tokens.spans(&heads, m, [n_q_heads, n_kv_heads, head_dim]),
        k: k.memory().as_read(),
        v: v.memory().as_read(),
        kv_stride: k.strides[0],
        q: q.as_ref().map_or(MorayBytes::NONE, |q| q.memory().as_read()),
        q_stride: q.as_ref().map_or(0, |q| q.strides[0]),
        q_out: q_out.map_or(NONE, |rows| rows.write()),
        rope: rope.map_or(MorayBytes::NONE, |rows| rows.read()),
        context: context.map_or(0, |[context, _]| context),
    };
    // SAFETY: the caller's.
    unsafe { launch(of_number(k.device_id)?, stream(k.device_id), &call)? };
    Ok(None)
}

/// `(out, q, records, longest, max_spans, workspace, heads.., pages..)`, and the device; 0 stands for as many spans as there are.
///
/// # Safety
/// As [`Arguments::tensor`].
unsafe fn attention(arguments: &mut Arguments<'_>) -> Outcome<(MorayCudaAttend, usize)> {
    arguments.expect_device(CUDA);
    // SAFETY: the caller's.
    let (out, q) = unsafe { (arguments.tensor("out")?, arguments.tensor("q")?.of("q", F32)?) };
    let &[m, n_q_heads, head_dim] = &q.shape[..] else {
        return Err(Fault::unsupported("q", "3 dimensions", format!("shape {:?}", q.shape)));
    };
    let out = out.shaped("out", &q.shape)?;
    // SAFETY: the caller's.
    let tokens = unsafe { Tokens::of(arguments)? };
    let max_spans = arguments.size("max_spans")?;
    // SAFETY: the caller's.
    let workspace = unsafe { bytes(arguments, "workspace")? };
    // SAFETY: the caller's.
    let (heads, (kv, n_kv_heads)) = unsafe { (Heads::of(arguments)?, pages(arguments, None, head_dim)?) };
    arguments.end()?;
    let call = MorayCudaAttend {
        struct_size: size_of::<MorayCudaAttend>() as u32,
        out_dtype: out.float("out")?,
        kv,
        spans: tokens.spans(&heads, m, [n_q_heads, n_kv_heads, head_dim]),
        max_spans: if max_spans == 0 { tokens.records.shape[0] } else { max_spans },
        q: q.read(),
        out: out.write(),
        workspace,
    };
    Ok((call, out.device_id))
}

/// As [`cuda_attend`], whose workspace is not looked at: loads the kernels and gives its bytes.
pub(in crate::tvm_ffi) unsafe fn cuda_attend_scratch(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let (call, device) = unsafe { attention(arguments)? };
    Ok(Some(prepare(of_number(device)?, &call)? as i64))
}

/// `(out, q, records, longest, max_spans, workspace, heads.., pages..)`
pub(in crate::tvm_ffi) unsafe fn cuda_attend(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let (call, device) = unsafe { attention(arguments)? };
    if call.spans.rows == 0 || call.spans.n_spans == 0 {
        return Ok(None);
    }
    // SAFETY: the caller's.
    unsafe { launch(of_number(device)?, stream(device), &call)? };
    Ok(None)
}
