//! Whether a checkpoint holds what its configuration says.

use std::collections::BTreeSet;

use super::Checkpoint;
use crate::error::{Error, Result};
use crate::hf::StoredTensor;
use crate::roles::{Format, LayerTensor, Presence, Role};

impl Checkpoint {
    /// The checkpoint, if every tensor that the configuration needs is there in its shape, and no other.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`], [`Error::TensorShape`], [`Error::TensorType`].
    pub(super) fn checked(mut self) -> Result<Self> {
        self.drop_zero_biases();
        self.check_output_layer()?;
        let mut known = 0;
        known += self.check_role(Role::Embedding)?;
        known += self.check_role(Role::FinalNorm)?;
        if !self.config.tied_embeddings {
            known += self.check_role(Role::LmHead)?;
        }
        for index in 0..self.config.n_layers {
            for tensor in LayerTensor::ALL {
                known += self.check_role(Role::Layer(index, tensor))?;
            }
        }
        if known < self.tensors.len() {
            self.check_unknown()?;
        }
        self.check_unknown_arrays()?;
        Ok(self)
    }

    /// Checks one tensor against the configuration; 1 if it is there, 0 if it may be absent and is.
    fn check_role(&self, role: Role) -> Result<usize> {
        let name = self.format.name(role);
        let (expected, presence, vector) = match role {
            Role::Embedding | Role::LmHead => ([self.config.vocab, self.config.hidden], Presence::Required, false),
            Role::FinalNorm => ([1, self.config.hidden], Presence::Required, true),
            Role::Layer(_, tensor) => (tensor.shape(&self.config), self.presence(tensor), tensor.is_vector()),
        };
        let Some((file, stored)) = self.tensors.get(&name) else {
            if self.check_quantized(role, &name)? {
                return Ok(0);
            }
            let missing = Error::MissingTensor { path: self.path.clone(), name };
            return if presence == Presence::Required { Err(missing) } else { Ok(0) };
        };
        let path = self.files[*file].path().to_path_buf();
        if presence == Presence::Forbidden {
            return Err(Error::UnexpectedTensor { path, name });
        }
        if stored.shape != expected {
            return Err(Error::TensorShape { path, name, expected, got: stored.shape });
        }
        if vector && !stored.dtype.is_float() {
            let (expected, got) = ("F32, F16 or BF16".into(), stored.dtype.to_string());
            return Err(Error::TensorType { path, name, expected, got });
        }
        Ok(1)
    }

    /// Whether a matrix that is not among the floats is there as integer codes, all of its arrays.
    fn check_quantized(&self, role: Role, name: &str) -> Result<bool> {
        let (Some(quantization), Role::Layer(_, tensor)) = (&self.quantization, role) else { return Ok(false) };
        let Some(prefix) = name.strip_suffix(".weight").filter(|_| !tensor.is_vector()) else { return Ok(false) };
        for suffix in quantization.required(tensor.shape(&self.config)[1]) {
            let name = format!("{prefix}.{suffix}");
            if !self.arrays.contains_key(&name) {
                return Err(Error::MissingTensor { path: self.path.clone(), name });
            }
        }
        Ok(true)
    }

    /// Forgets biases that the configuration does not have and that add nothing, as some exporters write beside every matrix.
    fn drop_zero_biases(&mut self) {
        let biases = LayerTensor::ALL.into_iter().filter(|tensor| tensor.is_optional() && !tensor.is_head_norm());
        let unasked: Vec<LayerTensor> = biases.filter(|&tensor| self.presence(tensor) == Presence::Forbidden).collect();
        let names = (0..self.config.n_layers).take_while(|&index| {
            let norm = self.format.name(Role::Layer(index, LayerTensor::AttnNorm));
            self.tensors.contains_key(&norm)
        });
        let mut dropped = 0;
        for index in names.collect::<Vec<_>>() {
            for &tensor in &unasked {
                let name = self.format.name(Role::Layer(index, tensor));
                if self.tensors.get(&name).is_some_and(|(file, stored)| self.is_zero(*file, stored)) {
                    self.tensors.remove(&name);
                    dropped += 1;
                }
            }
        }
        if dropped > 0 {
            self.notes.ignored(format!("{dropped} biases that the configuration does not have: all of them are zeros"));
        }
    }

    /// Whether a tensor of floats holds zeros only.
    fn is_zero(&self, file: usize, stored: &StoredTensor) -> bool {
        let bytes = &self.files[file].bytes()[stored.range.clone()];
        let (size, sign) = (stored.dtype.block_bytes(), 0x80);
        stored.dtype.is_float()
            && bytes.chunks_exact(size).all(|value| {
                value.split_last().is_some_and(|(high, low)| high & !sign == 0 && low.iter().all(|&byte| byte == 0))
            })
    }

    /// Output layers and embeddings are floats here, and an output layer that is stored although it is said to be the embedding
    /// must be it.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    fn check_output_layer(&mut self) -> Result<()> {
        let (embedding, head) = (self.format.name(Role::Embedding), self.format.name(Role::LmHead));
        for name in [&embedding, &head] {
            let prefix = name.strip_suffix("weight").unwrap_or(name);
            if let Some((array, _)) = self.arrays.iter().find(|(array, _)| array.starts_with(prefix)) {
                let what = if name == &head { "output layer" } else { "embedding" };
                let got = format!("integers, {array}");
                return Err(Error::unsupported(&self.path, what, "floats (or blocks in a GGUF file)", got));
            }
        }
        let (Some(embedding), Some(stored)) = (self.tensors.get(&embedding), self.tensors.get(&head)) else {
            return Ok(());
        };
        let bytes = |(file, stored): &(usize, StoredTensor)| &self.files[*file].bytes()[stored.range.clone()];
        if self.config.tied_embeddings && (embedding.1.dtype, bytes(embedding)) != (stored.1.dtype, bytes(stored)) {
            self.config.tied_embeddings = false;
            self.notes.unusual(format!(
                "{head} is stored and differs from the embedding although tie_word_embeddings is true: it is used, as \
                 transformers 5 does"
            ));
        }
        Ok(())
    }

    /// Layers are alike: a bias that the first layer has, every layer has, and none where the configuration says so.
    fn presence(&self, tensor: LayerTensor) -> Presence {
        match tensor.is_expected(&self.config) {
            Some(true) => return Presence::Required,
            Some(false) => return Presence::Forbidden,
            None => {}
        }
        let mlp = matches!(tensor, LayerTensor::GateBias | LayerTensor::UpBias | LayerTensor::DownBias);
        let stated = if mlp { self.config.mlp_bias } else { self.config.attention_bias };
        // A Hugging Face configuration promises the biases; only the output's is left out by some families.
        let promised = matches!(self.format, Format::HuggingFace) && tensor != LayerTensor::OBias;
        let first = self.format.name(Role::Layer(0, tensor));
        match stated {
            true if promised || self.tensors.contains_key(&first) => Presence::Required,
            _ => Presence::Forbidden,
        }
    }

    /// Tensors of floats that the model does not have.
    fn check_unknown(&self) -> Result<()> {
        let mut expected = vec![Role::Embedding, Role::FinalNorm, Role::LmHead];
        for index in 0..self.config.n_layers {
            expected.extend(LayerTensor::ALL.map(|tensor| Role::Layer(index, tensor)));
        }
        let expected: BTreeSet<String> = expected.into_iter().map(|role| self.format.name(role)).collect();
        match self.tensors.keys().find(|name| !expected.contains(*name) && !self.format.derives(name)) {
            Some(name) => Err(Error::UnexpectedTensor { path: self.path.clone(), name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Arrays of integer codes that belong to no matrix of the model.
    fn check_unknown_arrays(&self) -> Result<()> {
        let matrices = LayerTensor::ALL.into_iter().filter(|tensor| !tensor.is_vector());
        let names = (0..self.config.n_layers)
            .flat_map(|index| matrices.clone().map(move |tensor| Role::Layer(index, tensor)))
            .map(|role| self.format.name(role));
        let known: BTreeSet<String> = names.collect();
        let unknown = self.arrays.keys().find(|name| {
            let prefix = name.rsplit_once('.').map_or(name.as_str(), |(prefix, _)| prefix);
            !known.contains(&format!("{prefix}.weight"))
        });
        match unknown {
            Some(name) => Err(Error::UnexpectedTensor { path: self.path.clone(), name: name.clone() }),
            None => Ok(()),
        }
    }
}
