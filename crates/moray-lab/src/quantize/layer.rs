//! One layer of a model in f32, as quantization works on it.

use super::matrix::Matrix;
use crate::checkpoint::{Checkpoint, LayerTensor};
use crate::error::{Error, Result};

/// A matrix with its bias.
#[derive(Debug, Clone)]
pub struct Projection {
    /// f32 \[N, K\].
    pub weight: Matrix,
    /// f32 \[N\].
    pub bias: Option<Vec<f32>>,
}

/// The places in a layer whose inputs are quantized: each is one matrix or several side by side that read the same input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// Query, key and value.
    Qkv,
    /// The attention's output projection.
    O,
    /// Gate and up.
    GateUp,
    /// Down.
    Down,
}

impl Site {
    /// In the order of the forward pass.
    pub const ALL: [Site; 4] = [Site::Qkv, Site::O, Site::GateUp, Site::Down];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Site::Qkv => "qkv",
            Site::O => "o",
            Site::GateUp => "gate_up",
            Site::Down => "down",
        }
    }

    /// The tensors of a site, one below the other, with their biases.
    pub fn tensors(self) -> &'static [(LayerTensor, LayerTensor)] {
        use LayerTensor::{Down, DownBias, Gate, GateBias, K, KBias, O, OBias, Q, QBias, Up, UpBias, V, VBias};
        match self {
            Site::Qkv => &[(Q, QBias), (K, KBias), (V, VBias)],
            Site::O => &[(O, OBias)],
            Site::GateUp => &[(Gate, GateBias), (Up, UpBias)],
            Site::Down => &[(Down, DownBias)],
        }
    }
}

/// A half of a layer, which begins with a norm and ends in the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// [`Site::Qkv`] and [`Site::O`].
    Attention,
    /// [`Site::GateUp`] and [`Site::Down`].
    Mlp,
}

impl Half {
    /// In the order of the forward pass.
    pub const ALL: [Half; 2] = [Half::Attention, Half::Mlp];

    /// The sites whose matrices a half multiplies with, one after the other.
    pub fn sites(self) -> [Site; 2] {
        match self {
            Half::Attention => [Site::Qkv, Site::O],
            Half::Mlp => [Site::GateUp, Site::Down],
        }
    }
}

/// The weights of one layer. Norms are folded into the projections that follow, so they are 1.
#[derive(Debug, Clone)]
pub struct FloatLayer {
    /// RMSNorm before attention, f32 \[d\].
    pub attn_norm: Vec<f32>,
    /// RMSNorm before the MLP, f32 \[d\].
    pub mlp_norm: Vec<f32>,
    /// By site, in the order of [`Site::ALL`].
    pub sites: [Projection; 4],
}

impl FloatLayer {
    /// Reads layer `index`, matrices that share an input one below the other.
    ///
    /// # Errors
    /// [`crate::Error::NotFinite`] for NaN or infinite weights.
    pub fn read(checkpoint: &Checkpoint, index: usize) -> Result<Self> {
        let is_read = |tensor| {
            let of_sites = || Site::ALL.iter().flat_map(|site| site.tensors()).any(|&(weight, _)| weight == tensor);
            matches!(tensor, LayerTensor::AttnNorm | LayerTensor::FfnNorm) || of_sites()
        };
        let mut expected = LayerTensor::ALL.into_iter().filter(|t| t.is_expected(checkpoint.config()) == Some(true));
        if let Some(tensor) = expected.find(|&tensor| !is_read(tensor)) {
            let (expected, got) = ("two norms and projections with or without biases", format!("{tensor:?} as well"));
            return Err(Error::Kernel(moray::Error::Unsupported { what: "layer", expected, got }));
        }
        let vector = |tensor| checkpoint.layer(index, tensor)?.to_f32();
        let [qkv, o, gate_up, down] = Site::ALL.map(|site| read_site(checkpoint, index, site));
        Ok(FloatLayer {
            attn_norm: vector(LayerTensor::AttnNorm)?,
            mlp_norm: vector(LayerTensor::FfnNorm)?,
            sites: [qkv?, o?, gate_up?, down?],
        })
    }

    /// The norm that a half begins with.
    pub fn norm(&self, half: Half) -> &[f32] {
        match half {
            Half::Attention => &self.attn_norm,
            Half::Mlp => &self.mlp_norm,
        }
    }

    /// The norm that a half begins with, to change it.
    pub fn norm_mut(&mut self, half: Half) -> &mut [f32] {
        match half {
            Half::Attention => &mut self.attn_norm,
            Half::Mlp => &mut self.mlp_norm,
        }
    }

    /// The projection of a site.
    pub fn site(&self, site: Site) -> &Projection {
        &self.sites[site as usize]
    }

    /// The projection of a site, to change it.
    pub fn site_mut(&mut self, site: Site) -> &mut Projection {
        &mut self.sites[site as usize]
    }
}

fn read_site(checkpoint: &Checkpoint, index: usize, site: Site) -> Result<Projection> {
    let (mut parts, mut bias, mut any) = (Vec::new(), Vec::new(), false);
    for &(tensor, bias_tensor) in site.tensors() {
        let stored = checkpoint.layer(index, tensor)?;
        let [rows, columns] = stored.shape;
        parts.push(Matrix { rows, columns, data: stored.to_f32()? });
        checkpoint.release(&stored);
        let values = checkpoint.layer_optional(index, bias_tensor)?.map(|tensor| tensor.to_f32()).transpose()?;
        any |= values.is_some();
        bias.extend(values.unwrap_or_else(|| vec![0.0; rows]));
    }
    Ok(Projection { weight: Matrix::stack(&parts), bias: any.then_some(bias) })
}
