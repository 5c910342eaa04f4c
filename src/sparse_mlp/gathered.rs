//! Neurons of a list, copied out of weights so that they lie one after another.

use super::select::{IndexList, NeuronList};
use super::weights::{Biases, Dense, Shape, Store, Weights};
use crate::Cpu;
use crate::column_sums::copy_rows;
use crate::error::{Error, Result, check_len};
use crate::memory::Memory;
use crate::simd::SimdElement;
use bytemuck::Pod;

/// Weights of the neurons of a list, in memory that is used again for the next list.
///
/// A list that many calls compute, as one that a prompt fixes for its generation, is worth a copy: rows that lie one after another stream
/// from memory, and in 4 bits gate and up go into the tiles of [`crate::w4a8::PackedWeight`]. No number changes, and
/// [`super::forward`] with [`super::Selection::All`] gives the very bits that the list gives on the weights it was copied from.
///
/// # Example
/// ```
/// use moray::Cpu;
/// use moray::sparse_mlp::{Activation, Gathered, IndexList, Selection, Shape, Weights, Workspace, forward};
///
/// let (cpu, shape) = (Cpu::detect(), Shape { d_model: 2, d_ff: 3, activation: Activation::Relu });
/// let weights = Weights::new(shape, &[1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0], &[1.0f32; 6], &[1.0f32; 6])?;
/// let mut workspace = Workspace::new(&weights, 1)?;
/// let kept = IndexList::new(&[0, 2], 3)?;
/// let [mut listed, mut copied] = [[0.0f32; 2]; 2];
/// forward(&cpu, &weights, &[3.0, 1.0], &Selection::List(kept), None, &mut listed, &mut workspace)?;
///
/// let mut gathered = Gathered::with_capacity(&weights, 2)?;
/// gathered.gather(&cpu, &weights, kept)?;
/// forward(&cpu, gathered.weights(), &[3.0, 1.0], &Selection::All, None, &mut copied, &mut workspace)?;
/// assert_eq!(copied, listed);
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug)]
pub struct Gathered {
    weights: Weights,
    capacity: usize,
}

impl Gathered {
    /// Allocates for up to `neurons` neurons of weights like these.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for weights that were gathered themselves.
    pub fn with_capacity(from: &Weights, neurons: usize) -> Result<Self> {
        from.check_whole()?;
        let shape = from.shape();
        let store = match &from.store {
            Store::F32(w) => Store::F32(room(w, shape, neurons)),
            Store::F16(w) => Store::F16(room(w, shape, neurons)),
            Store::Bf16(w) => Store::Bf16(room(w, shape, neurons)),
            Store::FourBit(w) => Store::FourBit(w.room(neurons)?),
        };
        let biases = from.biases.as_ref().map(|from| {
            let room = |bias: &Vec<f32>| Vec::with_capacity(if bias.is_empty() { 0 } else { neurons });
            Biases { gate: room(&from.gate), up: room(&from.up), down: from.down.clone() }
        });
        let list = NeuronList { indices: Vec::with_capacity(neurons), limit: shape.d_ff };
        let weights = Weights { shape: Shape { d_ff: 0, ..shape }, store, biases, neurons: Some(list) };
        Ok(Gathered { weights, capacity: neurons })
    }

    /// Copies the neurons of a list out of weights of the kind that this was made for, in place of those that were here.
    ///
    /// # Errors
    /// [`Error::Shape`] for more neurons than there is room for, [`Error::Length`] for a list or weights of other sizes,
    /// [`Error::Unsupported`] for weights of another kind. What was here is to be gathered again then.
    pub fn gather(&mut self, cpu: &Cpu, from: &Weights, list: IndexList<'_>) -> Result<()> {
        from.check_whole()?;
        let (shape, n) = (from.shape(), list.indices().len());
        let own = self.weights.shape;
        check_len("list's limit", shape.d_ff, list.limit())?;
        check_len("d_model of weights to gather", own.d_model, shape.d_model)?;
        check_len("d_ff of weights to gather", self.weights.all_neurons(), shape.d_ff)?;
        if n > self.capacity {
            let expected = "no more than there is room for";
            return Err(Error::Shape { what: "neurons to gather", expected, got: n });
        }
        let room = NeuronList { indices: Vec::new(), limit: shape.d_ff };
        let mut indices = self.weights.neurons.replace(room).map_or_else(Vec::new, |list| list.indices);
        indices.clear();
        // until all is copied there are none
        self.weights.shape = Shape { d_ff: 0, ..shape };
        copy(cpu, from, list.indices(), &mut self.weights)?;
        indices.extend_from_slice(list.indices());
        self.weights.shape.d_ff = n;
        self.weights.neurons = Some(NeuronList { indices, limit: shape.d_ff });
        Ok(())
    }

    /// The neurons that are here, of those of the weights that they were copied from.
    pub fn list(&self) -> &[u32] {
        self.weights.neurons.as_ref().map_or(&[], NeuronList::indices)
    }

    /// Neurons that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The neurons that are here, as weights of which [`super::forward`] computes all; `d_ff` is their number.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}

fn room<T: Pod>(_: &Dense<T>, shape: Shape, n: usize) -> Dense<T> {
    // where there are no rows, calls still say which columns they would read
    let rows = || Memory::resident(n.max(1) * shape.d_model);
    Dense { gate: rows(), up: rows(), down: rows() }
}

/// Copies rows and biases.
fn copy(cpu: &Cpu, from: &Weights, list: &[u32], to: &mut Weights) -> Result<()> {
    let d = from.shape().d_model;
    match (&from.store, &mut to.store) {
        (Store::F32(from), Store::F32(to)) => copy_dense(cpu, from, d, list, to),
        (Store::F16(from), Store::F16(to)) => copy_dense(cpu, from, d, list, to),
        (Store::Bf16(from), Store::Bf16(to)) => copy_dense(cpu, from, d, list, to),
        (Store::FourBit(from), Store::FourBit(to)) => from.gather(cpu, list, to)?,
        _ => {
            let (expected, got) = ("the element type that there is room for", "another".into());
            return Err(Error::Unsupported { what: "weights to gather", expected, got });
        }
    }
    to.biases = from.biases.as_ref().map(|from| {
        let Biases { mut gate, mut up, mut down } = to.biases.take().unwrap_or_default();
        for (from, to) in [(&from.gate, &mut gate), (&from.up, &mut up)] {
            to.clear();
            // an empty one is absent
            to.extend(list.iter().filter_map(|&j| from.get(j as usize)));
        }
        down.clone_from(&from.down);
        Biases { gate, up, down }
    });
    Ok(())
}

fn copy_dense<T: SimdElement>(cpu: &Cpu, from: &Dense<T>, d: usize, list: &[u32], to: &mut Dense<T>) {
    for (from, to) in [(&from.gate, &mut to.gate), (&from.up, &mut to.up), (&from.down, &mut to.down)] {
        copy_rows(cpu, from, d, list, to);
    }
}
