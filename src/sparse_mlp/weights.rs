//! The weights of one gated MLP, neuron-major.

use super::four_bit::FourBit;
use super::select::{NeuronList, ScoreOn, Selection};
use crate::Cpu;
use crate::activation::Activation;
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::memory::Memory;
use crate::simd::SimdElement;
use crate::w4a8::QuantizedWeight;
use bytemuck::Pod;
use half::{bf16, f16};

/// The sizes and the gate's nonlinearity of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Features of x and y.
    pub d_model: usize,
    /// Neurons.
    pub d_ff: usize,
    /// The nonlinearity of the gate.
    pub activation: Activation,
}

impl Shape {
    fn check(&self) -> Result<()> {
        const LIMIT: usize = 1 << 24;
        for (what, got) in [("d_model", self.d_model), ("d_ff", self.d_ff)] {
            if !(1..=LIMIT).contains(&got) {
                return Err(Error::Shape { what, expected: "1 to 2²⁴", got });
            }
        }
        Ok(())
    }
}

/// One of the three matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Matrix {
    /// gate \[d_ff, d_model\].
    Gate,
    /// up \[d_ff, d_model\].
    Up,
    /// down, transposed \[d_ff, d_model\].
    Down,
}

/// 16-bit or f32 rows, each matrix \[d_ff, d_model\] row-major.
#[derive(Debug, Clone)]
pub(crate) struct Dense<T: Pod> {
    pub gate: Memory<T>,
    pub up: Memory<T>,
    pub down: Memory<T>,
}

#[derive(Debug, Clone)]
pub(crate) enum Store {
    F32(Dense<f32>),
    F16(Dense<f16>),
    Bf16(Dense<bf16>),
    FourBit(FourBit),
}

/// An element type that rows can be stored in: `f32`, `f16`, `bf16`.
pub trait WeightElement: Element + sealed::Wrap {}
impl WeightElement for f32 {}
impl WeightElement for f16 {}
impl WeightElement for bf16 {}

mod sealed {
    use super::{Dense, Pod, Store, bf16, f16};

    pub trait Wrap: Pod {
        #[doc(hidden)]
        #[allow(private_interfaces)] // sealed: nothing outside can name or call it
        fn wrap(dense: Dense<Self>) -> Store;
    }
    #[allow(private_interfaces)]
    impl Wrap for f32 {
        fn wrap(dense: Dense<Self>) -> Store {
            Store::F32(dense)
        }
    }
    #[allow(private_interfaces)]
    impl Wrap for f16 {
        fn wrap(dense: Dense<Self>) -> Store {
            Store::F16(dense)
        }
    }
    #[allow(private_interfaces)]
    impl Wrap for bf16 {
        fn wrap(dense: Dense<Self>) -> Store {
            Store::Bf16(dense)
        }
    }
}

/// The three matrices (and biases, if any) of a gated MLP, stored so that a neuron is three contiguous rows.
#[derive(Debug, Clone)]
pub struct Weights {
    pub(super) shape: Shape,
    pub(crate) store: Store,
    pub(crate) biases: Option<Biases>,
    /// The neurons that these are of others' that they were gathered from; all of their own if none.
    pub(super) neurons: Option<NeuronList>,
}

/// f32 biases; an empty one is absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Biases {
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub down: Vec<f32>,
}

impl Weights {
    /// Copies `f32`, `f16` or `bf16` weights as checkpoints hold them; down is transposed.
    ///
    /// | argument | shape | layout |
    /// |---|---|---|
    /// | `gate`, `up` | \[d_ff, d_model\] | row-major |
    /// | `down` | \[d_model, d_ff\] | row-major |
    ///
    /// # Errors
    /// [`Error::Shape`] for a size of 0, [`Error::Length`] for a matrix of another size, [`Error::Value`] for a weight
    /// that is not finite.
    pub fn new<T: WeightElement>(shape: Shape, gate: &[T], up: &[T], down: &[T]) -> Result<Self> {
        shape.check()?;
        let Shape { d_model, d_ff, .. } = shape;
        for (what, matrix) in [("gate", gate), ("up", up), ("down", down)] {
            check_len(what, d_ff * d_model, matrix.len())?;
            if let Some(bad) = matrix.iter().find(|w| !w.to_f32().is_finite()) {
                return Err(Error::Value { what, expected: "finite weights", got: bad.to_f32() });
            }
        }
        let mut transposed = Memory::zeroed(down.len());
        for (j, row) in transposed.chunks_exact_mut(d_model).enumerate() {
            row.iter_mut().enumerate().for_each(|(n, w)| *w = down[n * d_ff + j]);
        }
        let dense = Dense { gate: gate.into(), up: up.into(), down: transposed };
        Ok(Weights { shape, store: T::wrap(dense), biases: None, neurons: None })
    }

    /// Stores 4-bit weights neuron-major with the codes and scales they have: gate, up \[d_ff, d_model\] and down
    /// \[d_model, d_ff\].
    ///
    /// # Errors
    /// [`Error::Shape`] unless the matrices have these sizes, [`Error::Unsupported`] for 8-bit codes and for scales other
    /// than per-channel and per-group.
    pub fn from_quantized(
        shape: Shape,
        gate: &QuantizedWeight,
        up: &QuantizedWeight,
        down: &QuantizedWeight,
    ) -> Result<Self> {
        shape.check()?;
        let store = Store::FourBit(FourBit::new(shape.d_model, shape.d_ff, gate, up, down)?);
        Ok(Weights { shape, store, biases: None, neurons: None })
    }

    /// Adds biases: gate and up f32 \[d_ff\], down f32 \[d_model\]; an empty one is absent.
    ///
    /// # Errors
    /// [`Error::Length`] for another size, [`Error::Value`] for a bias that is not finite.
    pub fn with_biases(mut self, gate: &[f32], up: &[f32], down: &[f32]) -> Result<Self> {
        let Shape { d_model, d_ff, .. } = self.shape;
        for (what, n, bias) in [("gate bias", d_ff, gate), ("up bias", d_ff, up), ("down bias", d_model, down)] {
            if !bias.is_empty() {
                check_len(what, n, bias.len())?;
            }
            if let Some(&got) = bias.iter().find(|b| !b.is_finite()) {
                return Err(Error::Value { what, expected: "finite biases", got });
            }
        }
        self.biases = Some(Biases { gate: gate.to_vec(), up: up.to_vec(), down: down.to_vec() });
        Ok(self)
    }

    /// Holds 4-bit rows of some matrices in tiles of 16 neurons, as [`crate::w4a8::PackedWeight`] does, for calls that compute all of them:
    /// those are faster then, with the same numbers, and others are refused. Rows in floating point stay as they are.
    ///
    /// | rows in tiles | selections served |
    /// |---|---|
    /// | none | all |
    /// | gate | all neurons; a threshold or top-k, whatever the score is on |
    /// | gate and up | all neurons; a threshold or top-k by the product or by inputs |
    ///
    /// # Errors
    /// [`Error::Unsupported`] for [`Matrix::Down`], whose rows are inputs, and for weights that were gathered.
    ///
    /// # Example
    /// ```
    /// use moray::Cpu;
    /// use moray::sparse_mlp::{Activation, Matrix, Score, ScoreOn, Selection, Shape, Weights, Workspace, forward};
    /// use moray::w4a8::{Format, quantize};
    ///
    /// let (cpu, shape) = (Cpu::detect(), Shape { d_model: 32, d_ff: 64, activation: Activation::Silu });
    /// let matrix = |n, k| quantize(&vec![0.5; n * k], n, k, Format::per_channel());
    /// let weights = Weights::from_quantized(shape, &matrix(64, 32)?, &matrix(64, 32)?, &matrix(32, 64)?)?;
    /// let weights = weights.with_packed_rows(&cpu, &[Matrix::Gate])?;
    ///
    /// let (mut y, mut workspace) = ([0.0; 32], Workspace::new(&weights, 1)?);
    /// let half = Selection::TopK { score: Score::plain(ScoreOn::Gate), k: 32 };
    /// forward(&cpu, &weights, &[0.1; 32], &half, None, &mut y, &mut workspace)?;
    /// # Ok::<(), moray::Error>(())
    /// ```
    pub fn with_packed_rows(mut self, cpu: &Cpu, matrices: &[Matrix]) -> Result<Self> {
        self.check_whole()?;
        if let Some(Matrix::Down) = matrices.iter().find(|&&matrix| matrix == Matrix::Down) {
            let (expected, got) = ("gate or up", "down".into());
            return Err(Error::Unsupported { what: "rows to pack", expected, got });
        }
        if let Store::FourBit(w) = &mut self.store {
            matrices.iter().try_for_each(|&matrix| w.pack(cpu, matrix))?;
        }
        Ok(self)
    }

    /// The sizes and the nonlinearity.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The biases of a matrix, none where it has none.
    pub(super) fn bias(&self, matrix: Matrix) -> &[f32] {
        self.biases.as_ref().map_or(&[], |biases| match matrix {
            Matrix::Gate => &biases.gate,
            Matrix::Up => &biases.up,
            Matrix::Down => &biases.down,
        })
    }

    /// The neurons that rows are of: their numbers among all that these were gathered from, of which every call computes all.
    pub(crate) fn numbers<'a>(&'a self, rows: &'a [u32]) -> &'a [u32] {
        self.neurons.as_ref().map_or(rows, NeuronList::indices)
    }

    /// The neurons that [`Weights::numbers`] are of.
    pub(crate) fn all_neurons(&self) -> usize {
        self.neurons.as_ref().map_or(self.shape.d_ff, |list| list.view().limit())
    }

    /// Checks that a selection is one that these rows serve.
    pub(super) fn check_selection(&self, selection: &Selection<'_>) -> Result<()> {
        let on = selection.score().map(|score| score.on);
        if self.neurons.is_some() && *selection != Selection::All && on != Some(ScoreOn::Input) {
            let (expected, got) = ("all neurons of weights that were gathered", "some of them".into());
            return Err(Error::Unsupported { what: "selection", expected, got });
        }
        let takes_all = *selection == Selection::All;
        self.check_rows(takes_all || on.is_some(), takes_all || on.is_some_and(|on| on != ScoreOn::Gate))
    }

    /// Checks that rows in tiles are not asked for some neurons: a call reads all rows of gate, and of up.
    pub(super) fn check_rows(&self, all_of_gate: bool, all_of_up: bool) -> Result<()> {
        let Store::FourBit(w) = &self.store else { return Ok(()) };
        for (form, reads_all, expected) in [
            (&w.gate, all_of_gate, "all neurons, or a threshold or top-k, where rows of gate are in tiles"),
            (&w.up, all_of_up, "all neurons, or a threshold or top-k by the product, where rows of up are in tiles"),
        ] {
            if form.is_packed() && !reads_all {
                return Err(Error::Unsupported { what: "selection", expected, got: "some of them".into() });
            }
        }
        Ok(())
    }

    /// Checks that these are not neurons of others'.
    pub(super) fn check_whole(&self) -> Result<()> {
        match self.neurons {
            None => Ok(()),
            Some(_) => {
                let (expected, got) = ("those of all neurons", "gathered ones".into());
                Err(Error::Unsupported { what: "weights", expected, got })
            }
        }
    }

    /// Whether activations are quantized to int8 for them.
    pub(crate) fn is_four_bit(&self) -> bool {
        matches!(self.store, Store::FourBit(_))
    }

    /// Bytes held by the three matrices.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::F32(w) => dense_bytes(w),
            Store::F16(w) => dense_bytes(w),
            Store::Bf16(w) => dense_bytes(w),
            Store::FourBit(w) => w.bytes(),
        }
    }

    /// Writes neuron `j`'s row of a matrix, as the numbers the stored bits stand for, rounded to f32.
    ///
    /// # Errors
    /// [`Error::Index`] unless `j` < d_ff, [`Error::Length`] unless `row` has d_model elements.
    pub fn row(&self, matrix: Matrix, j: usize, row: &mut [f32]) -> Result<()> {
        let Shape { d_model, d_ff, .. } = self.shape;
        if j >= d_ff {
            return Err(Error::Index { what: "neuron", limit: d_ff, got: j });
        }
        check_len("row", d_model, row.len())?;
        match &self.store {
            Store::F32(w) => dense_row(w, matrix, j, row),
            Store::F16(w) => dense_row(w, matrix, j, row),
            Store::Bf16(w) => dense_row(w, matrix, j, row),
            Store::FourBit(w) => w.row(matrix, j, self.neurons.as_ref().map_or(j, |n| n.indices()[j] as usize), row),
        }
        Ok(())
    }

    /// ‖down\[:, j\]‖₂ for every neuron, f32 \[d_ff\]: the size of a neuron's part in y is |a_j| times this.
    pub fn down_norms(&self) -> Vec<f32> {
        let mut row = vec![0.0; self.shape.d_model];
        let mut norm = |j| {
            // j and the length are in range, so the row is always written
            let _ = self.row(Matrix::Down, j, &mut row);
            row.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>().sqrt() as f32
        };
        (0..self.shape.d_ff).map(&mut norm).collect()
    }

    /// Bytes of the rows that a call reads: `gate` and `up` rows of those matrices and the `down` neurons' rows of down.
    pub(crate) fn row_bytes(&self, gate: usize, up: usize, down: &[u32]) -> usize {
        let rows = (gate + up + down.len()) * self.shape.d_model;
        match &self.store {
            Store::F32(_) => rows * 4,
            Store::F16(_) | Store::Bf16(_) => rows * 2,
            Store::FourBit(w) => w.row_bytes(gate, up, self.numbers(down)),
        }
    }
}

fn dense_bytes<T: SimdElement>(w: &Dense<T>) -> usize {
    (w.gate.len() + w.up.len() + w.down.len()) * size_of::<T>()
}

fn dense_row<T: SimdElement>(w: &Dense<T>, matrix: Matrix, j: usize, row: &mut [f32]) {
    let all = match matrix {
        Matrix::Gate => &w.gate,
        Matrix::Up => &w.up,
        Matrix::Down => &w.down,
    };
    let d = row.len();
    row.iter_mut().zip(&all[j * d..(j + 1) * d]).for_each(|(out, w)| *out = w.to_f32());
}
