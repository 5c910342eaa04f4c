//! The weights of one gated MLP on the device, neuron-major.

use super::params::MatrixView;
use crate::device::Device;
use crate::device::cudarc::driver::{CudaSlice, DevicePtr};
use crate::error::{Error, Result};
use crate::sparse_mlp::four_bit::{DownMatrix, FourBit, RowMatrix, SEGMENT};
use crate::sparse_mlp::weights::{Dense, Store};
use crate::sparse_mlp::{Shape, Weights as HostWeights};
use crate::w4a8::{GroupScale, Offset};

/// What rows are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RowFormat {
    F16,
    Bf16,
    FourBit,
}

impl RowFormat {
    pub(super) fn name(self) -> &'static str {
        match self {
            RowFormat::F16 => "f16",
            RowFormat::Bf16 => "bf16",
            RowFormat::FourBit => "4-bit",
        }
    }
}

/// gate or up.
#[derive(Debug)]
struct Rows {
    data: CudaSlice<u8>,
    scales: CudaSlice<u32>,
    form: [u32; 2],
    segments_per_group: u32,
    scale_stride: u32,
}

/// down, transposed.
#[derive(Debug)]
pub(super) struct Down {
    pub data: CudaSlice<u8>,
    pub scales: CudaSlice<u8>,
    /// As [`form`] gives it.
    pub form: [u32; 2],
    pub group_size: u32,
}

/// The three matrices (and biases, if any) of a gated MLP on a device, with the bits of a host's [`HostWeights`].
///
/// A neuron is a row of each matrix: 16-bit elements, or 4-bit codes with the scales of gate and up in rows of their own and
/// those of down by blocks of neurons.
#[derive(Debug)]
pub struct Weights {
    shape: Shape,
    pub(super) format: RowFormat,
    gate: Rows,
    up: Rows,
    pub(super) down: Down,
    /// gate, up, down; one that is absent has no bias.
    biases: [Option<CudaSlice<f32>>; 3],
}

impl Weights {
    /// Copies f16, bf16 or 4-bit weights to the device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for f32 weights, [`Error::Shape`] unless d_model is a multiple of 8, [`Error::OutOfMemory`] if
    /// there is no room.
    pub fn upload(device: &Device, host: &HostWeights) -> Result<Weights> {
        let shape = host.shape();
        if shape.d_model % 8 != 0 {
            let expected = "a multiple of 8 on a CUDA device";
            return Err(Error::Shape { what: "d_model", expected, got: shape.d_model });
        }
        let (format, gate, up, down) = match &host.store {
            Store::F32(_) => {
                let (expected, got) = ("f16, bf16 or 4 bits on a CUDA device", "f32".into());
                return Err(Error::Unsupported { what: "weights", expected, got });
            }
            Store::F16(w) => dense(device, w, RowFormat::F16)?,
            Store::Bf16(w) => dense(device, w, RowFormat::Bf16)?,
            Store::FourBit(FourBit { gate, up, down }) => {
                let rows = |matrix: &RowMatrix| four_bit_rows(device, matrix, shape.d_ff);
                (RowFormat::FourBit, rows(gate)?, rows(up)?, four_bit_down(device, down, shape.d_ff)?)
            }
        };
        let bias = |bias: &Vec<f32>| if bias.is_empty() { Ok(None) } else { device.upload(bias).map(Some) };
        let biases = match &host.biases {
            Some(b) => [bias(&b.gate)?, bias(&b.up)?, bias(&b.down)?],
            None => [None, None, None],
        };
        Ok(Weights { shape, format, gate, up, down, biases })
    }

    /// The sizes and the nonlinearity.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes held on the device.
    pub fn memory_bytes(&self) -> usize {
        let rows = |rows: &Rows| rows.data.len() + 4 * rows.scales.len();
        let biases: usize = self.biases.iter().flatten().map(|bias| 4 * bias.len()).sum();
        rows(&self.gate) + rows(&self.up) + self.down.data.len() + self.down.scales.len() + biases
    }

    pub(super) fn is_four_bit(&self) -> bool {
        self.format == RowFormat::FourBit
    }

    pub(super) fn gate(&self, device: &Device) -> MatrixView {
        view(device, &self.gate, &self.biases[0])
    }

    pub(super) fn up(&self, device: &Device) -> MatrixView {
        view(device, &self.up, &self.biases[1])
    }

    pub(super) fn down_bias(&self, device: &Device) -> u64 {
        address_of(device, &self.biases[2])
    }

    pub(super) fn check_context(&self, device: &Device) -> Result<()> {
        super::check_context("weights", device, &self.gate.data)
    }
}

fn address_of(device: &Device, slice: &Option<CudaSlice<f32>>) -> u64 {
    slice.as_ref().map_or(0, |slice| slice.device_ptr(device.stream()).0)
}

fn view(device: &Device, rows: &Rows, bias: &Option<CudaSlice<f32>>) -> MatrixView {
    MatrixView {
        rows: rows.data.device_ptr(device.stream()).0,
        scales: rows.scales.device_ptr(device.stream()).0,
        bias: address_of(device, bias),
        group_scale: rows.form[0],
        segments_per_group: rows.segments_per_group,
        scale_stride: rows.scale_stride,
        offset: rows.form[1],
    }
}

fn dense<T: bytemuck::Pod>(device: &Device, w: &Dense<T>, format: RowFormat) -> Result<(RowFormat, Rows, Rows, Down)> {
    let upload = |matrix: &[T]| device.upload::<u8>(bytemuck::cast_slice(matrix));
    let rows = |matrix: &[T]| -> Result<Rows> {
        Ok(Rows {
            data: upload(matrix)?,
            scales: device.zeros(1)?,
            form: [0; 2],
            segments_per_group: 1,
            scale_stride: 0,
        })
    };
    let down = Down { data: upload(&w.down)?, scales: device.zeros(1)?, form: [0; 2], group_size: 1 };
    Ok((format, rows(&w.gate)?, rows(&w.up)?, down))
}

/// The scales of groups (0: one of the channel) and what they have besides, as kernels know them.
fn form(offset: Option<Offset>) -> [u32; 2] {
    offset.map_or([0; 2], |offset| [GroupScale::F16 as u32, offset as u32])
}

/// Cuts the records into codes and scales, each in rows of their own; rows of group scales are padded to whole 32-byte sectors,
/// which is how kernels read them.
fn four_bit_rows(device: &Device, matrix: &RowMatrix, d_ff: usize) -> Result<Rows> {
    let code_bytes = matrix.d / 2;
    let dwords = (matrix.stride - code_bytes) / 4;
    let scale_stride = if matrix.offset.is_none() { 1 } else { dwords.next_multiple_of(8) };
    let mut codes = Vec::with_capacity(d_ff * code_bytes);
    let mut scales = vec![0u32; d_ff * scale_stride];
    let records = matrix.records().chunks_exact(matrix.stride).take(d_ff);
    for (record, scales) in records.zip(scales.chunks_exact_mut(scale_stride)) {
        codes.extend_from_slice(&record[..code_bytes]);
        for (scale, bytes) in scales.iter_mut().zip(record[code_bytes..].chunks_exact(4)) {
            *scale = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    Ok(Rows {
        data: device.upload(&codes)?,
        scales: device.upload(&scales)?,
        form: form(matrix.offset),
        segments_per_group: (matrix.group_size / SEGMENT) as u32,
        scale_stride: scale_stride as u32,
    })
}

/// Brings the scales of each block of neurons into the order of the columns.
fn four_bit_down(device: &Device, matrix: &DownMatrix, d_ff: usize) -> Result<Down> {
    let d = matrix.columns.d;
    let order = |at: usize| at / d * d + matrix.columns.position(at % d);
    let scales: Vec<u8> = if matrix.offset.is_none() {
        (0..d).flat_map(|n| matrix.channel_scale[order(n)].to_le_bytes()).collect()
    } else {
        (0..matrix.group_params.len()).flat_map(|at| matrix.group_params[order(at)].to_le_bytes()).collect()
    };
    Ok(Down {
        data: device.upload(&matrix.codes()[..d_ff * d / 2])?,
        scales: device.upload(&scales)?,
        form: form(matrix.offset),
        group_size: matrix.group_size as u32,
    })
}
