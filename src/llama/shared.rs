//! What the states of all devices have in common.

use super::config::Config;
use super::settings::Settings;
use crate::error::{Result, check_len};
use crate::policy::{PolicySet, Sizes};

/// Sizes of one layer's weights besides its MLP; matrices are \[rows, columns\].
pub(super) struct LayerSizes {
    pub(super) attn_norm: usize,
    pub(super) qkv: [usize; 2],
    pub(super) o: [usize; 2],
    pub(super) mlp_norm: usize,
}

impl LayerSizes {
    /// Checks them against the model's.
    ///
    /// # Errors
    /// [`crate::Error::Length`] naming the first that differs.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        let (d, q) = (config.d_model, config.attention.q_elems());
        let sizes = [
            ("attention norm", d, self.attn_norm),
            ("qkv rows", config.qkv_features(), self.qkv[0]),
            ("qkv columns", d, self.qkv[1]),
            ("o rows", d, self.o[0]),
            ("o columns", q, self.o[1]),
            ("mlp norm", d, self.mlp_norm),
        ];
        sizes.into_iter().try_for_each(|(what, expected, got)| check_len(what, expected, got))
    }
}

/// Makes the policies of a session.
///
/// # Errors
/// As [`PolicySet::new`].
pub(super) fn policies(config: &Config, settings: &Settings) -> Result<PolicySet> {
    PolicySet::new(
        &settings.policies,
        &Sizes { model: config.sizes(), slots: settings.slots, max_tokens: settings.max_tokens },
    )
}
