//! The weights of one gated MLP on the device, neuron-major.

use super::packed::{PackedRows, PackedWeights};
use super::raw;
use super::row_format::RowFormat;
use crate::device::cudarc::driver::CudaSlice;
use crate::device::{Address, Arguments, Device};
use crate::error::Result;
use crate::sparse_mlp::{Shape, Weights as HostWeights};
use crate::w4a8::Group;

/// One matrix, as [`raw::Matrix`] or [`raw::DownMatrix`] says.
#[derive(Debug)]
struct Rows {
    data: CudaSlice<u8>,
    scales: Option<CudaSlice<u8>>,
    group: Option<Group>,
    bias: Option<CudaSlice<f32>>,
}

/// Where the parts of one matrix begin: rows, scales and bias.
type Parts = (Address, Option<Address>, Option<Address<f32>>);

impl Rows {
    fn upload(device: &Device, packed: &PackedRows<'_>) -> Result<Rows> {
        let PackedRows { rows, scales, group, bias } = packed;
        Ok(Rows {
            data: device.upload(rows)?,
            scales: (!scales.is_empty()).then(|| device.upload(scales)).transpose()?,
            group: *group,
            bias: (!bias.is_empty()).then(|| device.upload(bias)).transpose()?,
        })
    }

    fn memory_bytes(&self) -> usize {
        let scales = self.scales.as_ref().map_or(0, |scales| scales.len());
        self.data.len() + scales + self.bias.as_ref().map_or(0, |bias| 4 * bias.len())
    }

    fn hold<'a>(&'a self, arguments: &mut Arguments<'a>) -> Result<Parts> {
        let data = arguments.read("weights", &self.data)?;
        let scales = self.scales.as_ref().map(|scales| arguments.read("weights", scales)).transpose()?;
        let bias = self.bias.as_ref().map(|bias| arguments.read("weights", bias)).transpose()?;
        Ok((data, scales, bias))
    }
}

/// The three matrices (and biases, if any) of a gated MLP on a device, with the bits of a host's [`HostWeights`].
///
/// A neuron is a row of each matrix: 16-bit elements, or 4-bit codes with the scales of gate and up in rows of their own and
/// those of down by blocks of neurons.
#[derive(Debug)]
pub struct Weights {
    shape: Shape,
    format: RowFormat,
    gate: Rows,
    up: Rows,
    down: Rows,
}

impl Weights {
    /// Copies f16, bf16 or 4-bit weights to the device.
    ///
    /// # Errors
    /// Those of [`PackedWeights::new`], [`crate::Error::OutOfMemory`] if there is no room.
    pub fn upload(device: &Device, host: &HostWeights) -> Result<Weights> {
        let PackedWeights { shape, format, gate, up, down } = PackedWeights::new(host)?;
        device.prepare(super::MODULES)?;
        let upload = |packed| Rows::upload(device, packed);
        Ok(Weights { shape, format, gate: upload(&gate)?, up: upload(&up)?, down: upload(&down)? })
    }

    /// The sizes and the nonlinearity.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What rows are stored as.
    pub fn format(&self) -> RowFormat {
        self.format
    }

    /// Bytes held on the device.
    pub fn memory_bytes(&self) -> usize {
        self.gate.memory_bytes() + self.up.memory_bytes() + self.down.memory_bytes()
    }

    /// Holds the matrices for a call.
    pub(super) fn hold<'a>(&'a self, arguments: &mut Arguments<'a>) -> Result<raw::Weights> {
        let mut matrix = |held: &'a Rows| -> Result<raw::Matrix> {
            let (rows, scales, bias) = held.hold(arguments)?;
            let scales = scales.map(|scales| scales.cast());
            Ok(raw::Matrix { rows, scales, group: held.group, bias })
        };
        let (gate, up) = (matrix(&self.gate)?, matrix(&self.up)?);
        let (rows, scales, bias) = self.down.hold(arguments)?;
        let down = raw::DownMatrix { rows, scales, group: self.down.group, bias };
        Ok(raw::Weights { gate, up, down })
    }
}
