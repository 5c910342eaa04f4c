//! The parts of a call on the CPU, for engines that put something between them, or share each among threads of their own.

use super::elementwise::{Keep, MaskScores};
use super::forward::for_tokens;
use super::four_bit::ROW_TOKENS;
use super::project::{Inputs, Products, Tile, project_down, quantize_hidden, store};
use super::rows::BLOCK;
use super::select::{IndexList, Selection};
use super::weights::{Matrix, Weights};
use super::workspace::Workspace;
use crate::Cpu;
use crate::activation::Activate;
use crate::error::{Error, Result, check_len, product};
use crate::threads::{Pieces, SharedSlice, Tiles};
use crate::w4a8::{ActScales, Activations};
use std::ops::Range;

/// What gate and up multiply.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Input<'a> {
    /// f32 \[tokens, d_model\], for weights in floating point.
    Floats(&'a [f32]),
    /// int8 with one scale for each token, for 4-bit weights.
    Int8(&'a Activations),
}

/// Where act(gate·x) is, or goes.
#[derive(Debug)]
#[non_exhaustive]
pub enum Gate<'a> {
    /// It has been computed: f32 \[tokens, positions of the list\].
    Given(&'a [f32]),
    /// It is computed, and written if somewhere is given: f32 \[tokens, positions of the list\].
    Computed(Option<SharedSlice<'a, f32>>),
}

/// Computes gate = act(gate·x) and hidden = gate ⊙ (up·x) for the neurons at some positions of a list: the first part of
/// [`forward`](super::forward), with its bits.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `x` | \[tokens, d_model\] | inputs, quantized for 4-bit weights |
/// | `list` | L neurons | those of the call; of all threads that share it the same |
/// | `positions` | | a range of 0 to L, whose ends are multiples of 16, or L |
/// | `gate` | f32 \[tokens, L\] | given, or computed and perhaps written |
/// | `hidden` | f32 \[tokens, L\] | written, or none for the gate alone |
///
/// Columns other than `positions` are neither read nor written, and only the rows of the neurons there are read. Threads of an engine's
/// own share a call by ranges that do not overlap, each with the same outputs as a [`SharedSlice`], on a [`Cpu`] of one thread. A
/// selection by scores is: the gate of all neurons, a choice from it, then `hidden` of the list that was chosen with the gate given.
///
/// # Errors
/// [`Error::Length`] for a buffer of another size, [`Error::Shape`] for positions inside a block of 16, [`Error::Index`] for positions past
/// the list, [`Error::Unsupported`] for inputs that are not the weights' kind, where nothing would be written, for weights that were
/// gathered, and for some neurons of a matrix whose rows are in tiles ([`Weights::with_packed_rows`]).
///
/// # Example
/// ```
/// use moray::Cpu;
/// use moray::sparse_mlp::{Activation, Gate, IndexList, Input, Shape, Weights, Workspace, down, gate_up};
///
/// let shape = Shape { d_model: 2, d_ff: 3, activation: Activation::Relu };
/// let gate = [1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0];
/// let up = [1.0f32, 1.0, 1.0, -1.0, 2.0, 0.0];
/// let matrix = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]; // [d_model, d_ff]
/// let weights = Weights::new(shape, &gate, &up, &matrix)?;
/// let (cpu, list, x) = (Cpu::detect(), IndexList::new(&[0, 2], 3)?, [3.0, 1.0]);
///
/// let mut hidden = [0.0; 2];
/// gate_up(&cpu, &weights, Input::Floats(&x), list, 0..2, Gate::Computed(None), Some((&mut hidden[..]).into()))?;
/// assert_eq!(hidden, [3.0 * 4.0, 4.0 * 6.0]);
///
/// let (mut y, mut workspace) = ([0.0; 2], Workspace::new(&weights, 1)?);
/// down(&cpu, &weights, list, &hidden, 0..2, None, &mut y[..], &mut workspace)?;
/// assert_eq!(y, [1.0 * 12.0 + 3.0 * 24.0, 4.0 * 12.0 + 6.0 * 24.0]);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn gate_up(
    cpu: &Cpu,
    weights: &Weights,
    x: Input<'_>,
    list: IndexList<'_>,
    positions: Range<usize>,
    gate: Gate<'_>,
    hidden: Option<SharedSlice<'_, f32>>,
) -> Result<()> {
    let tokens = x.tokens(weights)?;
    check_list(weights, list)?;
    let takes_all = list.indices().len() == list.limit();
    let computes_gate = matches!(gate, Gate::Computed(_));
    weights.check_rows(takes_all || !computes_gate, takes_all || hidden.is_none())?;
    check_range("positions", &positions, list.indices().len())?;
    let len = product("tokens", &[tokens, list.indices().len()])?;
    hidden.as_ref().map_or(Ok(()), |hidden| check_len("hidden", len, hidden.len()))?;
    match &gate {
        Gate::Given(gate) => check_len("gate", len, gate.len())?,
        Gate::Computed(gate) => gate.as_ref().map_or(Ok(()), |gate| check_len("gate", len, gate.len()))?,
    }
    if hidden.is_none() && !matches!(gate, Gate::Computed(Some(_))) {
        let (expected, got) = ("somewhere for the gate or the products", "nowhere".into());
        return Err(Error::Unsupported { what: "outputs", expected, got });
    }
    if tokens == 0 || positions.is_empty() {
        return Ok(());
    }
    let none = Activations::default();
    let (x, x_int8) = match x {
        Input::Floats(x) => (x, &none),
        Input::Int8(x) => (&[][..], x),
    };
    let inputs = Inputs { weights, x, x_int8, kept: &list.indices()[positions.clone()], tokens };
    let cut = |data| Tiles::new(data, list.indices().len(), positions.clone(), ROW_TOKENS, BLOCK);
    let activation = weights.shape().activation;
    match (gate, hidden) {
        (Gate::Computed(None), Some(hidden)) => inputs.for_tiles(cpu, cut(hidden), |tile, a, b, hidden| {
            both(activation, tile, a, b);
            store(b, hidden);
        }),
        (Gate::Computed(Some(gate)), Some(hidden)) => {
            inputs.for_tiles(cpu, (cut(gate), cut(hidden)), |tile, a, b, (gate, hidden)| {
                both(activation, tile, a, b);
                store(a, gate);
                store(b, hidden);
            });
        }
        (Gate::Computed(Some(gate)), None) => inputs.for_tiles(cpu, cut(gate), |tile, a, _, gate| {
            tile.multiply(Matrix::Gate, a);
            tile.simd.run(Activate { activation, gate: a, up: &mut [] });
            store(a, gate);
        }),
        (Gate::Given(gate), Some(hidden)) => inputs.for_tiles(cpu, cut(hidden), |tile, _, b, hidden| {
            tile.multiply(Matrix::Up, b);
            for (t, b) in b.iter_mut().enumerate() {
                let at = (tile.first_token + t) * list.indices().len() + positions.start + tile.first;
                gate[at..].iter().zip(b).take(tile.rows.len()).for_each(|(gate, b)| *b *= gate);
            }
            store(b, hidden);
        }),
        (_, None) => unreachable!("checked"),
    }
    Ok(())
}

/// a ← act(gate·x), b ← a ⊙ (up·x).
fn both(activation: super::Activation, tile: &Tile<'_>, a: &mut [[f32; BLOCK]], b: &mut [[f32; BLOCK]]) {
    tile.multiply(Matrix::Gate, a);
    tile.multiply(Matrix::Up, b);
    tile.simd.run(Activate { activation, gate: a, up: b });
}

/// Computes y = down·hidden (+ its bias) (+ residual) for some columns of y: the last part of [`forward`](super::forward), with its bits.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `list` | L neurons | those of the products |
/// | `hidden` | f32 \[tokens, L\] | their products, 0 for neurons that a token does not keep |
/// | `columns` | | a range of 0 to d_model |
/// | `residual` | f32 \[tokens, d_model\] | added to y |
/// | `y` | f32 \[tokens, d_model\] | written in `columns` |
///
/// Other columns are neither read nor written. Threads of an engine's own share a call by ranges that do not overlap, each with the same
/// `y` as a [`SharedSlice`] and a workspace of its own, on a [`Cpu`] of one thread. With 4-bit weights each quantizes all of `hidden` for
/// itself. Of a token whose inputs are not finite the parts give what the sums give, where [`forward`](super::forward) makes all of y NaN.
///
/// # Errors
/// [`Error::Length`] for a buffer of another size, [`Error::Index`] for columns past d_model, [`Error::Shape`] for more tokens than the
/// workspace has room for, [`Error::Unsupported`] for weights that were gathered.
#[allow(clippy::too_many_arguments)]
pub fn down<'y>(
    cpu: &Cpu,
    weights: &Weights,
    list: IndexList<'_>,
    hidden: &[f32],
    columns: Range<usize>,
    residual: Option<&[f32]>,
    y: impl Into<SharedSlice<'y, f32>>,
    workspace: &mut Workspace,
) -> Result<()> {
    let (y, kept, d_model) = (y.into(), list.indices(), weights.shape().d_model);
    check_list(weights, list)?;
    if y.len() % d_model != 0 {
        return Err(Error::Shape { what: "y", expected: "a multiple of d_model elements", got: y.len() });
    }
    let tokens = y.len() / d_model;
    check_len("hidden", product("tokens", &[tokens, kept.len()])?, hidden.len())?;
    residual.map_or(Ok(()), |residual| check_len("residual", y.len(), residual.len()))?;
    if columns.start > columns.end || columns.end > d_model {
        return Err(Error::Index { what: "columns", limit: d_model + 1, got: columns.start.max(columns.end) });
    }
    workspace.check(weights, tokens)?;
    if tokens == 0 {
        return Ok(());
    }
    let (_, mut work) = workspace.down();
    let products = Products { hidden, stride: kept.len(), tokens, kept };
    quantize_hidden(cpu, weights, products, &mut work);
    project_down(cpu, weights, (products, &mut work), residual, (y, columns));
    Ok(())
}

/// Writes which of `n` values each token keeps, for selections by a threshold and top-k: what [`forward`](super::forward) does between its
/// parts. The score is the size of what is given, whatever it says that it is of.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `values` | f32 \[tokens, n\] | such as the gate of all neurons |
/// | `masks` | u64 \[tokens, ⌈n/64⌉\] | overwritten; [`TokenMasks::union`](super::TokenMasks::union) lists what any token keeps |
///
/// # Errors
/// [`Error::Length`] for a buffer of another size, [`Error::Value`] and [`Error::Shape`] for a threshold, factors and k,
/// [`Error::Unsupported`] for other selections.
///
/// # Example
/// ```
/// use moray::sparse_mlp::{Score, ScoreOn, Selection, TokenMasks, select};
///
/// let selection = Selection::TopK { score: Score::plain(ScoreOn::Gate), k: 2 };
/// let mut masks = [0];
/// select(&moray::Cpu::detect(), &[0.5, -3.0, 1.0, 0.0], 4, &selection, &mut masks)?;
/// assert_eq!(masks, [0b0110]);
/// assert_eq!(TokenMasks::new(&masks, 1, 4)?.union().indices(), [1, 2]);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn select(cpu: &Cpu, values: &[f32], n: usize, selection: &Selection<'_>, masks: &mut [u64]) -> Result<()> {
    if n == 0 || values.len() % n != 0 {
        return Err(Error::Shape { what: "values", expected: "a multiple of n elements", got: values.len() });
    }
    let tokens = values.len() / n;
    let (keep, score) = match selection {
        Selection::Threshold { threshold, score } => (Keep::Above(*threshold), score),
        Selection::TopK { k, score } => (Keep::Top(*k), score),
        _ => {
            let (expected, got) = ("a threshold or top-k", "another".into());
            return Err(Error::Unsupported { what: "selection", expected, got });
        }
    };
    selection.check(tokens, n, n)?;
    check_len("masks", product("masks", &[tokens, n.div_ceil(64)])?, masks.len())?;
    for_tokens(cpu, 8 * n, Pieces::new(masks, n.div_ceil(64)), |t, mask| {
        cpu.simd().run(MaskScores { values: &values[t * n..][..n], scale: score.channel_scale, keep, mask });
    });
    Ok(())
}

impl Input<'_> {
    /// How many tokens there are, of what the weights multiply.
    fn tokens(&self, weights: &Weights) -> Result<usize> {
        let d_model = weights.shape().d_model;
        match *self {
            Input::Floats(x) if !weights.is_four_bit() => match x.len() % d_model {
                0 => Ok(x.len() / d_model),
                _ => Err(Error::Shape { what: "x", expected: "a multiple of d_model elements", got: x.len() }),
            },
            Input::Int8(x) if weights.is_four_bit() => {
                if x.k() != d_model {
                    return Err(Error::Shape { what: "x", expected: "d_model features", got: x.k() });
                }
                match x.scales() {
                    ActScales::Token => Ok(x.m()),
                    _ => Err(unsupported("one scale for each token", "one for each 128 of K")),
                }
            }
            Input::Floats(_) => Err(unsupported("int8 inputs for 4-bit weights", "f32")),
            Input::Int8(_) => Err(unsupported("f32 inputs for weights in floating point", "int8")),
        }
    }
}

fn unsupported(expected: &'static str, got: &str) -> Error {
    Error::Unsupported { what: "x", expected, got: got.into() }
}

/// Checks that a list is of these neurons, and that they are all there.
fn check_list(weights: &Weights, list: IndexList<'_>) -> Result<()> {
    check_len("list's neurons", weights.shape().d_ff, list.limit())?;
    weights.check_whole()
}

/// Checks that a range is of whole blocks below `len`.
fn check_range(what: &'static str, range: &Range<usize>, len: usize) -> Result<()> {
    if range.start > range.end || range.end > len {
        return Err(Error::Index { what, limit: len + 1, got: range.start.max(range.end) });
    }
    for got in [range.start, range.end] {
        if got % BLOCK != 0 && got != len {
            return Err(Error::Shape { what, expected: "multiples of 16, or the list's length", got });
        }
    }
    Ok(())
}
