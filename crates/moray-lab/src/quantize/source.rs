//! The model that is quantized: read layer by layer, rotated on the way.

use super::layer::FloatLayer;
use super::matrix::Matrix;
use super::options::Options;
use super::rotate::{Rotation, fold_norm};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::Result;

/// A checkpoint as quantization sees it.
#[derive(Debug)]
pub struct Source<'a> {
    checkpoint: &'a Checkpoint,
    rotation: Option<Rotation>,
}

impl<'a> Source<'a> {
    /// Takes a checkpoint and, if asked, draws its rotation.
    pub fn new(checkpoint: &'a Checkpoint, options: &Options) -> Self {
        let rotation = options.rotate.then(|| Rotation::new(checkpoint.config(), options.seed));
        Source { checkpoint, rotation }
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// Whether the output layer is the embedding: not once the model is rotated.
    pub fn tied(&self) -> bool {
        self.checkpoint.config().tied_embeddings && self.rotation.is_none()
    }

    /// Layer `index`.
    ///
    /// # Errors
    /// [`crate::Error::NotFinite`] for NaN or infinite weights.
    pub fn layer(&self, index: usize) -> Result<FloatLayer> {
        let mut layer = FloatLayer::read(self.checkpoint, index)?;
        if let Some(rotation) = &self.rotation {
            rotation.apply(&mut layer);
        }
        Ok(layer)
    }

    /// The embedding, f32 \[vocab, d\].
    ///
    /// # Errors
    /// As [`Source::layer`].
    pub fn embedding(&self) -> Result<Matrix> {
        let mut matrix = self.read(&self.checkpoint.embedding()?)?;
        if let Some(rotation) = &self.rotation {
            rotation.turn_input(&mut matrix);
        }
        Ok(matrix)
    }

    /// The rows of the embedding for tokens, f32 \[T, d\].
    ///
    /// # Errors
    /// As [`Source::layer`]; [`crate::Error::Index`] for a token that is no row.
    pub fn embedded(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let tensor = self.checkpoint.embedding()?;
        let d = tensor.shape[1];
        let mut data = vec![0.0; tokens.len() * d];
        for (&token, row) in tokens.iter().zip(data.chunks_exact_mut(d)) {
            tensor.rows_to_f32(token as usize..token as usize + 1, row)?;
        }
        let mut matrix = Matrix { rows: tokens.len(), columns: d, data };
        if let Some(rotation) = &self.rotation {
            rotation.turn_input(&mut matrix);
        }
        Ok(matrix.data)
    }

    /// The output layer, f32 \[vocab, d\]; none if it is the embedding.
    ///
    /// # Errors
    /// As [`Source::layer`].
    pub fn lm_head(&self) -> Result<Option<Matrix>> {
        let tensor = match self.checkpoint.lm_head()? {
            Some(tensor) => tensor,
            None if self.tied() => return Ok(None),
            None => self.checkpoint.embedding()?,
        };
        let mut matrix = self.read(&tensor)?;
        if let Some(rotation) = &self.rotation {
            fold_norm(&mut matrix, &self.checkpoint.final_norm()?.to_f32()?);
            rotation.turn_input(&mut matrix);
        }
        Ok(Some(matrix))
    }

    /// The last norm's gains, folded into the output layer if the model is rotated.
    ///
    /// # Errors
    /// As [`Source::layer`].
    pub fn final_norm(&self) -> Result<Vec<f32>> {
        let mut norm = self.checkpoint.final_norm()?.to_f32()?;
        if self.rotation.is_some() {
            norm.fill(1.0);
        }
        Ok(norm)
    }

    fn read(&self, tensor: &Tensor<'_>) -> Result<Matrix> {
        let [rows, columns] = tensor.shape;
        let data = tensor.to_f32()?;
        self.checkpoint.release(tensor);
        Ok(Matrix { rows, columns, data })
    }
}
