//! The GEMM on the CPU: the definition, and the path through the packed layout.

use super::activation::{ACT_BLOCK, ActScales, Activations};
use super::dot::Dot;
use super::pack::TILE_N;
use super::packed_view::PackedView;
use super::runs::runs;
use super::tile::{Tile, Tokens, panel_bytes};
use super::tile_kernels::{GEMV_TOKENS, TileKernels};
use super::weight::QuantizedWeight;
use crate::cpu::Cpu;
use crate::element::Element;
use crate::error::{Error, Result, check_len, product};
use crate::memory::Line;
use crate::simd::Available;
use crate::threads::{BlockColumns, RowBlocks, SharedSlice, Window};
use std::cell::RefCell;
use std::ops::Range;

/// What is added to the product before it is rounded to the output's type.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a, E> {
    /// f32 \[N\].
    pub bias: Option<&'a [f32]>,
    /// \[M, N\] row-major.
    pub residual: Option<&'a [E]>,
}

impl<E> Default for Epilogue<'_, E> {
    fn default() -> Self {
        Epilogue { bias: None, residual: None }
    }
}

/// Multiplies quantized activations with a packed weight: y = act_scale · (codes · wᵀ) + bias + residual, with fine scales
/// y = Σ_b act_scale\[b\] · (codes\[b\] · w\[b\]ᵀ) + bias + residual over the blocks b of 128 of K.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `weight` | \[N, K\] | packed |
/// | `x` | \[M, K\] | int8 with f32 act_scale \[M\] or \[M, ⌈K/128⌉\] |
/// | `epilogue.bias` | \[N\] | f32 |
/// | `epilogue.residual` | \[M, N\] | as `y` |
/// | `y` | \[M, N\] row-major | f32, f16 or bf16 |
///
/// Uses the best code for `cpu`'s instruction set; the result does not depend on it, nor on M or the threads. A thread's
/// first call allocates its scratch of 16 · K bytes, which later calls use again.
///
/// # Errors
/// [`Error::Shape`] if `x` and `weight` differ in K, [`Error::Length`] for a buffer of another size.
pub fn linear<'w, E: Element>(
    cpu: &Cpu,
    weight: impl Into<PackedView<'w>>,
    x: &Activations,
    epilogue: Epilogue<'_, E>,
    y: &mut [E],
) -> Result<()> {
    let weight = weight.into();
    linear_rows(cpu, weight, &[0..weight.n()], x, epilogue, y)
}

/// Multiplies as [`linear`], only for the output features in `rows` (increasing ranges, widened to whole blocks of 16); the
/// others of `y` are left as they are, and their weights are not read. Threads of an engine's own can share one multiplication by
/// ranges of whole blocks: each with the same `y` as a [`SharedSlice`], on a [`Cpu`] of one thread, which any number of them can use.
///
/// # Errors
/// As [`linear`]; [`Error::Index`] for a range past N, [`Error::NotIncreasing`] for ranges out of order.
pub fn linear_rows<'w, 'y, E: Element>(
    cpu: &Cpu,
    weight: impl Into<PackedView<'w>>,
    rows: &[Range<usize>],
    x: &Activations,
    epilogue: Epilogue<'_, E>,
    y: impl Into<SharedSlice<'y, E>>,
) -> Result<()> {
    let (weight, y) = (weight.into(), y.into());
    check(weight.n(), weight.k(), x, &epilogue, y.len())?;
    let blocks = RowBlocks::new(rows, weight.n())?;
    match cpu.simd() {
        Available::Portable(simd) => multiply(cpu, simd, &weight, &blocks, x, &epilogue, y),
        #[cfg(target_arch = "x86_64")]
        Available::Avx2(simd) => multiply(cpu, simd, &weight, &blocks, x, &epilogue, y),
        #[cfg(target_arch = "x86_64")]
        Available::AvxVnni(simd) => multiply(cpu, simd, &weight, &blocks, x, &epilogue, y),
        #[cfg(target_arch = "x86_64")]
        Available::Avx512(simd) => multiply(cpu, simd, &weight, &blocks, x, &epilogue, y),
    }
    Ok(())
}

fn multiply<E: Element>(
    cpu: &Cpu,
    simd: impl TileKernels,
    weight: &PackedView<'_>,
    blocks: &RowBlocks<'_>,
    x: &Activations,
    epilogue: &Epilogue<'_, E>,
    y: SharedSlice<'_, E>,
) {
    let grain = if x.m() <= GEMV_TOKENS { gemv_grain(weight.k(), blocks.len(), cpu.threads()) } else { 1 };
    let tokens = Tokens::new(x, weight.format().integer_group());
    cpu.team().for_parts(BlockColumns::new(y, weight.n(), blocks), grain, |_, (rows, mut y)| {
        let tile = weight.tile(rows.start / TILE_N);
        tile_sums(simd, &tile, tokens, |tokens, sums| {
            write_back(x, tokens, rows.clone(), weight.n(), sums, epilogue, &mut y);
        });
    });
}

/// Blocks of 16 rows that a member multiplies with few tokens before it takes others. Each change of place costs the start of a stream from memory, so
/// pieces of large matrices are up to 512 KB of 4-bit codes; those of smaller ones are a quarter of a member's share, but up to 128 KB, so that all end together.
fn gemv_grain(k: usize, blocks: usize, threads: usize) -> usize {
    let (least, most) = ((16_384 / k).clamp(1, 8), (65_536 / k).clamp(1, 32));
    (blocks / (4 * threads)).clamp(least, most)
}

fn check<E: Element>(n: usize, k: usize, x: &Activations, epilogue: &Epilogue<'_, E>, y: usize) -> Result<()> {
    if x.k() != k {
        return Err(Error::Shape { what: "x", expected: "the weight's K", got: x.k() });
    }
    let outputs = product("m", &[x.m(), n])?;
    check_len("y", outputs, y)?;
    epilogue.bias.map_or(Ok(()), |bias| check_len("bias", n, bias.len()))?;
    epilogue.residual.map_or(Ok(()), |residual| check_len("residual", outputs, residual.len()))
}

/// Tokens between two epilogues: their f32 sums stay in the first-level cache.
pub(crate) const TOKEN_BLOCK: usize = 48;

thread_local! {
    static PANEL: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's scratch for a panel of 16 rows.
pub(crate) fn with_panel<R>(k: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    PANEL.with_borrow_mut(|lines| {
        let need = panel_bytes(k);
        if lines.len() * 64 < need {
            lines.resize(need / 64, Line([0; 64]));
        }
        f(&mut bytemuck::cast_slice_mut(lines)[..need])
    })
}

/// Multiplies the rows of a tile with tokens, and hands `each` the sums of some of them after others.
fn tile_sums(
    simd: impl TileKernels,
    tile: &Tile<'_>,
    tokens: Tokens<'_>,
    mut each: impl FnMut(Range<usize>, &[[f32; TILE_N]]),
) {
    if tokens.count <= GEMV_TOKENS && tile.inner_scales().is_none() {
        let mut sums = [[0.0f32; TILE_N]; GEMV_TOKENS];
        if simd.gemv(tile, tokens, &mut sums) {
            return each(0..tokens.count, &sums);
        }
    }
    with_panel(tokens.k, |panel| {
        simd.unpack(tile, panel);
        panel_sums(|dot| simd.run(dot), panel, tile, tokens, each);
    });
}

/// Multiplies the rows of a panel, whose scales a tile has, with tokens, and hands `each` the sums of some of them after others.
fn panel_sums(
    run: impl Fn(Dot<'_>),
    panel: &[u8],
    tile: &Tile<'_>,
    tokens: Tokens<'_>,
    mut each: impl FnMut(Range<usize>, &[[f32; TILE_N]]),
) {
    let mut sums = [[0.0f32; TILE_N]; TOKEN_BLOCK];
    for start in (0..tokens.count).step_by(TOKEN_BLOCK) {
        let count = TOKEN_BLOCK.min(tokens.count - start);
        run(Dot { panel, tile, tokens: tokens.range(start, count), out: &mut sums });
        each(start..start + count, &sums[..count]);
    }
}

/// Multiplies a panel that a caller has unpacked: `each` gets the sums of some tokens after others, which have not been multiplied with the
/// tokens' scales.
pub(crate) fn multiply_panel(
    simd: Available,
    panel: &[u8],
    tile: &Tile<'_>,
    tokens: Tokens<'_>,
    each: impl FnMut(Range<usize>, &[[f32; TILE_N]]),
) {
    panel_sums(|dot| simd.run(dot), panel, tile, tokens, each);
}

/// out\[m\]\[row\] = what [`linear`] gives for the 16 rows of a tile, before an epilogue, for tokens of `x` from `first` on that have a scale
/// each; rows past N are 0.
pub(crate) fn multiply_rows(
    simd: Available,
    weight: &PackedView<'_>,
    tile: usize,
    x: &Activations,
    first: usize,
    out: &mut [[f32; TILE_N]],
) {
    multiply_tile_of(simd, weight, tile, x, first..first + out.len(), |tokens, sums| {
        for (m, sums) in tokens.zip(sums) {
            // 0 and not −0, as a sum over groups that begins at 0 is
            out[m] = sums.map(|sum| (0.0 + sum) * x.scale()[first + m]);
        }
    });
}

/// Multiplies the 16 rows of a tile with some tokens of `x`: `each` gets the sums of some of these after others, counted from the first,
/// which have not been multiplied with the tokens' scales.
pub(crate) fn multiply_tile_of(
    simd: Available,
    weight: &PackedView<'_>,
    tile: usize,
    x: &Activations,
    tokens: Range<usize>,
    each: impl FnMut(Range<usize>, &[[f32; TILE_N]]),
) {
    let tile = weight.tile(tile);
    let tokens = Tokens::new(x, tile.integer_group()).range(tokens.start, tokens.len());
    match simd {
        Available::Portable(simd) => tile_sums(simd, &tile, tokens, each),
        #[cfg(target_arch = "x86_64")]
        Available::Avx2(simd) => tile_sums(simd, &tile, tokens, each),
        #[cfg(target_arch = "x86_64")]
        Available::AvxVnni(simd) => tile_sums(simd, &tile, tokens, each),
        #[cfg(target_arch = "x86_64")]
        Available::Avx512(simd) => tile_sums(simd, &tile, tokens, each),
    }
}

#[inline(always)]
fn write_back<E: Element>(
    x: &Activations,
    tokens: Range<usize>,
    rows: Range<usize>,
    n: usize,
    sums: &[[f32; TILE_N]],
    epilogue: &Epilogue<'_, E>,
    y: &mut Window<'_, E>,
) {
    for (sums, m) in sums.iter().zip(tokens) {
        // fine scales are in the sums
        let act_scale = if x.scales() == ActScales::Token { x.scale()[m] } else { 1.0 };
        let mut sums = sums.map(|sum| sum * act_scale);
        if let Some(bias) = epilogue.bias {
            sums.iter_mut().zip(&bias[rows.clone()]).for_each(|(sum, bias)| *sum += bias);
        }
        if let Some(residual) = epilogue.residual {
            let residual = &residual[m * n + rows.start..m * n + rows.end];
            sums.iter_mut().zip(residual).for_each(|(sum, residual)| *sum += residual.to_f32());
        }
        let y = y.row(m);
        match y.first_chunk_mut::<TILE_N>() {
            // of a length that is known, no call is made to copy them
            Some(y) => y.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = E::from_f32(sum)),
            None => y.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = E::from_f32(sum)),
        }
    }
}

/// Multiplies by the definition, from the plain codes, one element after another: what [`linear`] is tested against.
///
/// # Errors
/// As [`linear`].
pub fn linear_reference<E: Element>(
    weight: &QuantizedWeight,
    x: &Activations,
    epilogue: Epilogue<'_, E>,
    y: &mut [E],
) -> Result<()> {
    check(weight.n(), weight.k(), x, &epilogue, y.len())?;
    for m in 0..x.m() {
        for n in 0..weight.n() {
            let act_scale = if x.scales() == ActScales::Token { x.scale()[m] } else { 1.0 };
            let mut v = reference_sum(weight, x, m, n) * act_scale;
            if let Some(bias) = epilogue.bias {
                v += bias[n];
            }
            if let Some(residual) = epilogue.residual {
                v += residual[m * weight.n() + n].to_f32();
            }
            y[m * weight.n() + n] = E::from_f32(v);
        }
    }
    Ok(())
}

/// One element before act_scale of a token. Integers are exact inside a group, or inside 128 of K with fine scales; in f32 they make a
/// chain for each run of K, in increasing order, and the chains are added to 0 in order.
fn reference_sum(weight: &QuantizedWeight, x: &Activations, m: usize, n: usize) -> f32 {
    let (k, fine, integer) = (weight.k(), x.scales() == ActScales::Fine, weight.format().stays_integer());
    let total =
        |columns| groups(weight, columns).map(|group| reference_group(weight, x.token(m), n, group).sum).sum::<i32>();
    let channel = weight.scales().channel.as_ref().map_or(1.0, |channel| channel[n]);
    if integer && !fine {
        return total(0..k) as f32 * channel;
    }
    let mut sum = 0.0;
    for run in runs(k) {
        let mut chain = 0.0;
        for start in run.clone().step_by(ACT_BLOCK) {
            let block = start..run.end.min(start + ACT_BLOCK);
            let act_scale = if fine { x.scale()[m * k.div_ceil(ACT_BLOCK) + start / ACT_BLOCK] } else { 1.0 };
            if integer {
                chain = (total(block) as f32).mul_add(act_scale, chain);
                continue;
            }
            for group in groups(weight, block) {
                let Group { sum, scale, added } = reference_group(weight, x.token(m), n, group);
                chain = (sum as f32 * act_scale).mul_add(scale, chain);
                if let Some((token_sum, offset)) = added {
                    chain = (token_sum as f32 * act_scale).mul_add(offset, chain);
                }
            }
        }
        sum += chain;
    }
    sum * channel
}

/// The columns of each group in a range of whole groups, or all of it where there are none.
fn groups(weight: &QuantizedWeight, columns: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let size = weight.format().group_size().unwrap_or(columns.len());
    columns.clone().step_by(size).map(move |start| start..columns.end.min(start + size))
}

/// One group of a row and a token.
struct Group {
    /// Exact.
    sum: i32,
    /// The group's, where it has one that is not in the sum.
    scale: f32,
    /// Σ codes of the token, and the offset that multiplies it.
    added: Option<(i32, f32)>,
}

fn reference_group(weight: &QuantizedWeight, a: &[i8], n: usize, columns: Range<usize>) -> Group {
    let (k, format) = (weight.k(), weight.format());
    let scales = weight.scales().at(format, n, columns.start, k);
    let codes = &weight.codes()[n * k..][columns.clone()];
    let a = &a[columns];
    let sum = codes.iter().zip(a).map(|(&code, &a)| format.integer(code, scales) * i32::from(a)).sum();
    let token_sum = a.iter().map(|&a| i32::from(a)).sum();
    Group { sum, scale: format.scale(scales), added: format.added(scales).map(|offset| (token_sum, offset)) }
}
