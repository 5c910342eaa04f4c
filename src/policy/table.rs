//! Policies by name: what a command parses, prints and explains.

use std::fmt;
use std::sync::Arc;

use super::{Found, ModelSizes, PolicyConfig, Projection, Site, TABLE};
use crate::error::{Error, Result};
use crate::sparse_mlp::{Matrix, Weights};

/// When a policy makes its choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// Never: nothing is skipped.
    Never,
    /// Before any text, for all of it.
    Beforehand,
    /// For each token, the prompt's too.
    PerToken,
    /// By the prompt, which runs whole, for what follows.
    ByPrompt,
}

/// What policies are made from besides their arguments.
pub trait Context {
    /// The model's sizes.
    fn model(&self) -> ModelSizes;

    /// The MLP of a layer.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer that is not there, [`Error::Unsupported`] if its weights are not held by neuron.
    fn mlp(&self, layer: usize) -> Result<&Weights>;

    /// ‖W\[:, k\]‖₂ of the inputs k of a layer's matrix, over the rows of all that share the input, f32 \[K\].
    ///
    /// # Errors
    /// [`Error::Index`] for a layer that is not there, [`Error::Unsupported`] if its matrices are not at hand.
    fn column_norms(&self, projection: Projection, layer: usize) -> Result<Vec<f32>>;

    /// Runs the calibration text through the whole model under policies that look at it.
    ///
    /// # Errors
    /// [`Error::Shape`] for a text without tokens; otherwise those of the forward pass.
    fn run(&mut self, policies: Vec<Arc<dyn PolicyConfig>>) -> Result<()>;

    /// What thresholds on the inputs of one layer's matrices, in the order of [`Projection::ALL`], do over the beginning of the calibration text while all
    /// else is computed whole.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer that is not there, [`Error::Unsupported`] if its weights are not held by input, [`Error::Shape`] for a text without
    /// tokens; otherwise those of the forward pass.
    fn effect(&mut self, layer: usize, thresholds: [f32; 4], on: Effect) -> Result<f64>;
}

/// Where the effect of leaving something out is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// On what the layer passes on: the squares of what changes over the squares of what was there.
    Block,
    /// On the model's distribution: the mean of D(whole ‖ changed) over the tokens, in nats.
    Divergence,
}

/// Tokens of a calibration text that set thresholds and statistics.
const CALIBRATION_TOKENS: usize = 512;

/// The arguments of a policy's name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Arguments {
    pub(super) site: Site,
    /// The kept fraction or the target, in (0, 1].
    pub(super) fraction: f32,
    /// Tokens between choices, or layers that are looked ahead; 0 for none.
    pub(super) tokens: usize,
}

/// One policy for each of its sites.
pub(super) type Policies = Result<Vec<Arc<dyn PolicyConfig>>>;

/// How a policy is made of its arguments.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// It is none: nothing is skipped.
    Whole,
    /// At once.
    AtOnce(fn(&Arguments, &ModelSizes) -> Policies),
    /// Of what is found in the model, and in what it makes of a text where the entry says so.
    Of(fn(&Arguments, &mut dyn Context) -> Result<Found>, fn(&Arguments, &ModelSizes, &Found) -> Policies),
}

/// A line of [`TABLE`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    syntax: &'static str,
    sites: &'static [Site],
    chosen: Chosen,
    help: &'static str,
    /// Tokens of a calibration text that set it; 0 for none.
    calibration_tokens: usize,
    /// Whether what is found is the same for all arguments.
    found_once: bool,
    /// Matrices of an MLP all of whose rows it reads for each token.
    reads_all: &'static [Matrix],
    made: Made,
}

impl Entry {
    const fn with(
        syntax: &'static str,
        sites: &'static [Site],
        chosen: Chosen,
        help: &'static str,
        made: Made,
    ) -> Self {
        Entry { syntax, sites, chosen, help, calibration_tokens: 0, found_once: false, reads_all: &[], made }
    }

    /// An entry of what its arguments say.
    pub(super) const fn new(
        syntax: &'static str,
        sites: &'static [Site],
        chosen: Chosen,
        help: &'static str,
        make: fn(&Arguments, &ModelSizes) -> Policies,
    ) -> Self {
        Self::with(syntax, sites, chosen, help, Made::AtOnce(make))
    }

    /// An entry of what is found in the model itself: with `find`, of which `make` makes it.
    pub(super) const fn found(
        syntax: &'static str,
        sites: &'static [Site],
        chosen: Chosen,
        help: &'static str,
        find: fn(&Arguments, &mut dyn Context) -> Result<Found>,
        make: fn(&Arguments, &ModelSizes, &Found) -> Policies,
    ) -> Self {
        Self::with(syntax, sites, chosen, help, Made::Of(find, make))
    }

    /// An entry for all of a site.
    pub(super) const fn whole(name: &'static str, sites: &'static [Site], help: &'static str) -> Self {
        Self::with(name, sites, Chosen::Never, help, Made::Whole)
    }

    /// What is found is the same for all arguments.
    pub(super) const fn once(self) -> Self {
        Entry { found_once: true, ..self }
    }

    /// For every token all rows of these matrices of an MLP are read.
    pub(super) const fn reading_all(self, matrices: &'static [Matrix]) -> Self {
        Entry { reads_all: matrices, ..self }
    }

    /// It is found in what the model makes of a text.
    pub(super) const fn calibrated(self) -> Self {
        self.calibrated_on(CALIBRATION_TOKENS)
    }

    pub(super) const fn calibrated_on(self, tokens: usize) -> Self {
        Entry { calibration_tokens: tokens, ..self }
    }

    /// Its name and arguments: `topk:K`. Brackets stand around what may be left out.
    pub fn syntax(&self) -> &'static str {
        self.syntax
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.syntax.split(':').next().unwrap_or(self.syntax)
    }

    /// What it may select.
    pub fn sites(&self) -> &'static [Site] {
        self.sites
    }

    /// What it keeps, in a few words.
    pub fn help(&self) -> &'static str {
        self.help
    }

    fn parse(&'static self, site: Site, text: Option<&str>) -> Option<Named> {
        let parsed = |fraction, tokens| Named { entry: self, arguments: Arguments { site, fraction, tokens } };
        let fraction = |text: &str| text.parse::<f32>().ok().filter(|f| *f > 0.0 && *f <= 1.0);
        match (!matches!(self.made, Made::Whole), text) {
            (false, None) => Some(Named::whole(self, site)),
            (true, Some(text)) => match text.split_once(':') {
                None => Some(parsed(fraction(text)?, 0)),
                Some((first, tokens)) if self.syntax.contains('[') => {
                    Some(parsed(fraction(first)?, tokens.parse().ok()?))
                }
                Some(_) => None,
            },
            _ => None,
        }
    }
}

/// A policy by name, with its arguments. It displays as what it was parsed from.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    entry: &'static Entry,
    arguments: Arguments,
}

impl Named {
    /// Skips no neuron.
    pub const EVERY_NEURON: Named = Named::whole(&TABLE[0], Site::Neurons);
    /// Skips no head.
    pub const EVERY_HEAD: Named = Named::whole(&TABLE[1], Site::Heads);
    /// Skips no input.
    pub const EVERY_INPUT: Named = Named::whole(&TABLE[2], Site::INPUTS[0]);

    const fn whole(entry: &'static Entry, site: Site) -> Named {
        Named { entry, arguments: Arguments { site, fraction: 1.0, tokens: 0 } }
    }

    /// Finds a policy of a site.
    ///
    /// # Errors
    /// [`Error::Unsupported`], with what there is, for a name that the site does not know or arguments that are not its own.
    ///
    /// # Example
    /// ```
    /// use moray::policy::{Named, Site};
    ///
    /// assert_eq!(Named::parse(Site::Heads, "norm:0.5:32")?.to_string(), "norm:0.5:32");
    /// let error = Named::parse(Site::Neurons, "topk:2").unwrap_err().to_string();
    /// assert!(error.contains("topk:K"), "{error}");
    /// # Ok::<(), moray::Error>(())
    /// ```
    pub fn parse(site: Site, text: &str) -> Result<Named> {
        let (name, arguments) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let entry = TABLE.iter().find(|entry| entry.sites.contains(&site) && entry.name() == name);
        entry.and_then(|entry| entry.parse(site, arguments)).ok_or_else(|| {
            let expected = match site {
                Site::Heads => "a policy for heads",
                Site::Neurons => "a policy for neurons",
                Site::Inputs(_) => "a policy for inputs",
            };
            let known: Vec<&str> = of_site(site).map(|entry| entry.syntax).collect();
            let got = format!("{text} (there are {}; K, a fraction in (0, 1])", known.join(", "));
            Error::Unsupported { what: "policy", expected, got }
        })
    }

    /// When it makes its choice.
    pub fn chosen(&self) -> Chosen {
        self.entry.chosen
    }

    /// Matrices of an MLP all of whose rows it reads for each token, whatever it keeps: they can be held in tiles, see
    /// [`Weights::with_packed_rows`].
    pub fn reads_all(&self) -> &'static [Matrix] {
        self.entry.reads_all
    }

    /// Tokens of a calibration text that set it, from the beginning; 0 if none does.
    pub fn calibration_tokens(&self) -> usize {
        self.entry.calibration_tokens
    }

    /// Whether it keeps everything that it selects from: what it finds of a text does not depend on the text then.
    pub fn keeps_all(&self) -> bool {
        self.entry.syntax.contains(":K") && self.arguments.fraction == 1.0
    }

    /// What it is found under ([`Named::find`]): its site and name, and its arguments where what is found depends on them; none where nothing
    /// has to be found.
    ///
    /// # Example
    /// ```
    /// use moray::policy::{Named, Site};
    ///
    /// let found_as = |site, text| Ok::<_, moray::Error>(Named::parse(site, text)?.found_as());
    /// assert_eq!(found_as(Site::Neurons, "cats:0.5")?.as_deref(), Some("neurons/cats:0.5"));
    /// assert_eq!(found_as(Site::Heads, "static:0.5")?.as_deref(), Some("heads/static"));
    /// assert_eq!(found_as(Site::Neurons, "topk:0.5")?, None);
    /// # Ok::<(), moray::Error>(())
    /// ```
    pub fn found_as(&self) -> Option<String> {
        let site = match self.arguments.site {
            Site::Neurons => "neurons",
            Site::Heads => "heads",
            Site::Inputs(_) => "inputs",
        };
        match (self.entry.made, self.entry.found_once) {
            (Made::Of(..), true) => Some(format!("{site}/{}", self.entry.name())),
            (Made::Of(..), false) => Some(format!("{site}/{self}")),
            _ => None,
        }
    }

    /// Finds in the model, and in what it makes of the calibration text, what the policy is made of; nothing where it needs nothing.
    ///
    /// # Errors
    /// Those of the policy and of [`Context`].
    pub fn find(&self, context: &mut dyn Context) -> Result<Found> {
        match self.entry.made {
            Made::Of(find, _) => find(&self.arguments, context),
            _ => Ok(Found::default()),
        }
    }

    /// Makes it of what was found, as a policy for each of its sites; none where nothing is skipped.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for arrays that are not there or not the model's, and those of the policy.
    pub fn make_of(&self, model: &ModelSizes, found: &Found) -> Result<Vec<Arc<dyn PolicyConfig>>> {
        match self.entry.made {
            Made::Whole => Ok(Vec::new()),
            Made::AtOnce(make) => make(&self.arguments, model),
            Made::Of(_, make) => make(&self.arguments, model, found),
        }
    }

    /// Makes it of what it finds, as a policy for each of its sites; none where nothing is skipped.
    ///
    /// # Errors
    /// Those of the policy and of [`Context`].
    pub fn make(&self, context: &mut dyn Context) -> Result<Vec<Arc<dyn PolicyConfig>>> {
        let found = self.find(context)?;
        self.make_of(&context.model(), &found)
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Named) -> bool {
        (self.entry.syntax, self.arguments) == (other.entry.syntax, other.arguments)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arguments { fraction, tokens, .. } = self.arguments;
        f.write_str(self.entry.name())?;
        if !matches!(self.entry.made, Made::Whole) {
            write!(f, ":{fraction}")?;
        }
        if tokens > 0 { write!(f, ":{tokens}") } else { Ok(()) }
    }
}

fn of_site(site: Site) -> impl Iterator<Item = &'static Entry> {
    TABLE.iter().filter(move |entry| entry.sites.contains(&site))
}

/// Says what policies there are for a site, one after another, for a command's help.
pub fn help(site: Site) -> String {
    of_site(site).map(|entry| format!("{} ({})", entry.syntax, entry.help)).collect::<Vec<_>>().join(", ")
}
