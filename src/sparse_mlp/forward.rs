//! The phases of a call on the CPU: inputs, gate and up, selection, quantization, down.

use super::elementwise::{Keep, MaskScores, ZeroUnselected, all_finite};
use super::project::{project_down, project_gate, project_up, quantize_hidden};
use super::select::{Score, ScoreOn, Selection, union_into};
use super::weights::{Shape, Weights};
use super::workspace::Workspace;
use crate::Cpu;
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::threads::{Parts, Pieces};
use std::any::TypeId;

/// Elements that are worth a barrier.
const PARALLEL_ELEMENTS: usize = 16_384;

/// Computes y = down(act(gate·x) ⊙ (up·x)) over the selected neurons of each token (+ residual).
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `x` | f32, f16 or bf16 \[tokens, d_model\] | inputs, already normalised |
/// | `selection` | | which neurons; scores are per token |
/// | `residual` | f32 \[tokens, d_model\] | added to y |
/// | `y` | f32 \[tokens, d_model\] | overwritten |
///
/// Only selected rows of the weights are read, each once for all tokens. With 4-bit weights x and the product are
/// quantized to int8 per token (scale max|·|/127), sums are exact integers within a group and f32 across groups by
/// runs of K, as in [`crate::w4a8`]. The result is the same bit for bit for every instruction set, every number of threads and every
/// split of the tokens into calls; for a full selection it is that of the dense W4A8 matrix products. `workspace` then
/// holds the intermediate activations.
///
/// A token with an activation that is NaN or infinite has y = NaN, all of it, and so has one whose act(gate·x) · (up·x) leaves f32
/// with 4-bit weights (in 16 bits it is what the sums give); the other tokens of the call are as without it. A score that is NaN
/// is not kept.
///
/// # Errors
/// [`Error::Length`] for a buffer or selection of another size, [`Error::Shape`] for more tokens than the workspace has
/// room for, [`Error::Value`] for a threshold or a scale of channels that is not one. Nothing has been written to `y` then.
///
/// # Example
/// ```
/// use moray::sparse_mlp::{Activation, IndexList, Selection, Shape, Weights, Workspace, forward};
///
/// let shape = Shape { d_model: 2, d_ff: 3, activation: Activation::Relu };
/// let gate = [1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0];
/// let up = [1.0f32, 1.0, 1.0, -1.0, 2.0, 0.0];
/// let down = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]; // [d_model, d_ff]
/// let weights = Weights::new(shape, &gate, &up, &down)?;
/// let mut workspace = Workspace::new(&weights, 1)?;
/// let mut y = [0.0; 2];
///
/// let kept = [0, 2];
/// let selection = Selection::List(IndexList::new(&kept, 3)?);
/// forward(&moray::Cpu::detect(), &weights, &[3.0f32, 1.0], &selection, None, &mut y, &mut workspace)?;
/// assert_eq!(workspace.hidden(0), [3.0 * 4.0, 4.0 * 6.0]);
/// assert_eq!(y, [1.0 * 12.0 + 3.0 * 24.0, 4.0 * 12.0 + 6.0 * 24.0]);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn forward<E: Element>(
    cpu: &Cpu,
    weights: &Weights,
    x: &[E],
    selection: &Selection<'_>,
    residual: Option<&[f32]>,
    y: &mut [f32],
    workspace: &mut Workspace,
) -> Result<()> {
    let Shape { d_model, d_ff, .. } = weights.shape();
    if x.len() % d_model != 0 {
        return Err(Error::Shape { what: "x", expected: "a multiple of d_model elements", got: x.len() });
    }
    let tokens = x.len() / d_model;
    check_len("y", x.len(), y.len())?;
    residual.map_or(Ok(()), |residual| check_len("residual", x.len(), residual.len()))?;
    selection.check(tokens, d_model, d_ff)?;
    weights.check_selection(selection)?;
    workspace.check(weights, tokens)?;

    (workspace.tokens, workspace.neurons) = (tokens, d_ff);
    if tokens == 0 {
        workspace.kept.clear();
        return Ok(());
    }
    let mut own = std::mem::take(&mut workspace.x);
    let floats = as_floats(x);
    if floats.is_none() {
        own.iter_mut().zip(x).for_each(|(own, x)| *own = x.to_f32());
    }
    let is_masked = mask_inputs(cpu, floats, selection, workspace, &mut own[..x.len()]);
    let inputs = floats.filter(|_| !is_masked).unwrap_or(&own[..x.len()]);
    let quantized =
        if weights.is_four_bit() { workspace.x_int8.quantize(cpu, inputs, tokens, d_model) } else { Ok(()) };
    if quantized.is_ok() {
        compute_hidden(cpu, weights, inputs, selection, workspace);
    }
    workspace.x = own;
    quantized?;
    let (products, mut work) = workspace.down();
    quantize_hidden(cpu, weights, products, &mut work);
    project_down(cpu, weights, (products, &mut work), residual, ((&mut *y).into(), 0..d_model));
    let is_finite = |x: &[E]| as_floats(x).map_or_else(|| x.iter().all(|x| x.to_f32().is_finite()), all_finite);
    if !is_finite(x) {
        let rows = x.chunks_exact(d_model).zip(y.chunks_exact_mut(d_model));
        rows.filter(|(x, _)| !is_finite(x)).for_each(|(_, y)| y.fill(f32::NAN));
    }
    Ok(())
}

/// The same slice if its elements are f32.
fn as_floats<E: Element>(x: &[E]) -> Option<&[f32]> {
    (TypeId::of::<E>() == TypeId::of::<f32>()).then(|| bytemuck::cast_slice(x))
}

/// Runs `f` on every token's part, in parallel where it is worth a barrier.
pub(crate) fn for_tokens<P: Parts>(cpu: &Cpu, elements: usize, parts: P, f: impl Fn(usize, P::Part) + Sync) {
    cpu.team().for_parts(parts, (PARALLEL_ELEMENTS / elements.max(1)).max(1), f);
}

/// Puts the inputs with 0 for those that score too low in `own`, if the selection is on inputs; they are `x`, or in `own` already.
fn mask_inputs(cpu: &Cpu, x: Option<&[f32]>, selection: &Selection<'_>, ws: &mut Workspace, own: &mut [f32]) -> bool {
    let Some(score) = selection.score().filter(|score| score.on == ScoreOn::Input) else { return false };
    let d = ws.shape.d_model;
    if let Some(x) = x {
        own.copy_from_slice(x);
    }
    mask_scores(cpu, own, d, d, selection, &score, ws);
    for (t, own) in own.chunks_exact_mut(d).enumerate() {
        let mask = &ws.masks[t * d.div_ceil(64)..];
        let keep = |i: usize| mask[i / 64] >> (i % 64) & 1 == 1;
        own.iter_mut().enumerate().filter(|(i, _)| !keep(*i)).for_each(|(_, own)| *own = 0.0);
    }
    true
}

/// Fills `ws.masks` with what each token keeps of `values` \[tokens, stride\], the first `n` of each.
fn mask_scores(
    cpu: &Cpu,
    values: &[f32],
    stride: usize,
    n: usize,
    selection: &Selection<'_>,
    score: &Score<'_>,
    ws: &mut Workspace,
) {
    let keep = match selection {
        Selection::Threshold { threshold, .. } => Keep::Above(*threshold),
        Selection::TopK { k, .. } => Keep::Top(*k),
        _ => return,
    };
    let words = n.div_ceil(64);
    let masks = Pieces::new(&mut ws.masks[..ws.tokens * words], words);
    for_tokens(cpu, 8 * n, masks, |t, mask| {
        let values = &values[t * stride..][..n];
        cpu.simd().run(MaskScores { values, scale: score.channel_scale, keep, mask });
    });
}

/// Fills `kept`, `gate` and `hidden`.
fn compute_hidden(cpu: &Cpu, weights: &Weights, x: &[f32], selection: &Selection<'_>, ws: &mut Workspace) {
    let d_ff = ws.neurons;
    let words = d_ff.div_ceil(64);
    let on = selection.score().map(|score| score.on);
    ws.gate_by_neuron = on.is_some() || matches!(selection, Selection::All);
    match selection {
        Selection::List(list) | Selection::Union { list, .. } => {
            ws.kept.clear();
            ws.kept.extend_from_slice(list.indices());
        }
        Selection::Masks(masks) => union_into(masks.words(), words, &mut ws.kept),
        // an increasing list that long and that high is of all
        _ if ws.kept.len() != d_ff || ws.kept.last().is_some_and(|&last| last as usize + 1 != d_ff) => {
            ws.kept.clear();
            ws.kept.extend(0..d_ff as u32);
        }
        _ => {}
    }
    project_gate(cpu, weights, x, ws, on != Some(ScoreOn::Gate));
    match selection {
        Selection::Masks(masks) | Selection::Union { masks, .. } => zero_unselected(cpu, ws, masks.words()),
        _ => {}
    }
    let Some(score) = selection.score().filter(|score| score.on != ScoreOn::Input) else { return };
    let values = std::mem::take(if score.on == ScoreOn::Gate { &mut ws.gate } else { &mut ws.hidden });
    mask_scores(cpu, &values, ws.stride, d_ff, selection, &score, ws);
    *(if score.on == ScoreOn::Gate { &mut ws.gate } else { &mut ws.hidden }) = values;
    union_into(&ws.masks[..ws.tokens * words], words, &mut ws.kept);
    if score.on == ScoreOn::Gate {
        project_up(cpu, weights, x, ws);
    } else {
        // a position is never behind its neuron, so moving forward in place overwrites only what has been moved
        for hidden in ws.hidden.chunks_exact_mut(ws.stride).take(ws.tokens) {
            ws.kept.iter().enumerate().for_each(|(at, &j)| hidden[at] = hidden[j as usize]);
        }
    }
    if ws.tokens > 1 {
        let masks = std::mem::take(&mut ws.masks);
        zero_unselected(cpu, ws, &masks);
        ws.masks = masks;
    }
}

/// Sets what a token's mask leaves out to 0.
fn zero_unselected(cpu: &Cpu, ws: &mut Workspace, masks: &[u64]) {
    let (words, kept) = (ws.neurons.div_ceil(64), &ws.kept);
    let tokens = Pieces::new(&mut ws.hidden[..ws.tokens * ws.stride], ws.stride);
    for_tokens(cpu, kept.len(), tokens, |t, hidden| {
        cpu.simd().run(ZeroUnselected { kept, mask: &masks[t * words..][..words], hidden });
    });
}

/// Counts the bytes of weights that a call reads.
///
/// `kept` are the neurons that any token keeps, as [`Workspace::kept`] has them after the call; for lists it is the list.
/// Gate rows: all for scores on the gate or the product (and for [`Selection::All`]), the kept ones otherwise. Up rows:
/// the kept ones, all for a score on the product. Down rows: the kept ones and, in 4 bits, the scales of each block of
/// neurons that has one.
pub fn bytes_read(weights: &Weights, selection: &Selection<'_>, kept: &[u32]) -> usize {
    let d_ff = weights.shape().d_ff;
    let (gate, up) = match selection.score().map(|score| score.on) {
        Some(ScoreOn::Gate) => (d_ff, kept.len()),
        Some(ScoreOn::Hidden | ScoreOn::Input) => (d_ff, d_ff),
        None => (kept.len(), kept.len()),
    };
    weights.row_bytes(gate, up, kept)
}
