//! Quantized weights from what candle holds.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Error, Result, Tensor};
use moray::w4a8::{Block, Format, QuantizedWeight, quantize};

use crate::rows::host_f32;

/// The two dimensions of a weight, neither of them 0.
pub(crate) fn matrix_dims(what: &'static str, dims: &[usize]) -> Result<(usize, usize)> {
    match *dims {
        [n, k] if n > 0 && k > 0 => Ok((n, k)),
        _ => Err(Error::Msg(format!("{what}: expected a matrix [N, K] of numbers, got the shape {dims:?}")).bt()),
    }
}

/// Takes blocks as they are: no number changes.
pub(crate) fn from_blocks(what: &'static str, weight: &QTensor) -> Result<QuantizedWeight> {
    let (n, k) = matrix_dims(what, weight.shape().dims())?;
    let block = match weight.dtype() {
        GgmlDType::Q4_0 => Block::Q4_0,
        GgmlDType::Q4_1 => Block::Q4_1,
        GgmlDType::Q5_0 => Block::Q5_0,
        GgmlDType::Q5_1 => Block::Q5_1,
        GgmlDType::Q8_0 => Block::Q8_0,
        got => {
            let expected = "blocks that run as they are (Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0)";
            let message = format!("{what}: expected {expected}, got {got:?}; its dequantized numbers can be quantized");
            return Err(Error::Msg(message).bt());
        }
    };
    block.import(&weight.data()?, n, k).map_err(Error::wrap)
}

/// Rounds a matrix to nearest.
pub(crate) fn from_numbers(what: &'static str, weight: &Tensor, format: Format) -> Result<QuantizedWeight> {
    let (n, k) = matrix_dims(what, weight.dims())?;
    quantize(&host_f32(what, weight, &[n, k])?, n, k, format).map_err(Error::wrap)
}
