//! What a calibration found for a policy, as arrays that a file can hold.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Elements of an [`Array`].
#[derive(Debug, Clone, PartialEq)]
pub enum Elements {
    /// Numbers.
    F32(Vec<f32>),
    /// Indices.
    U32(Vec<u32>),
}

/// An array of a calibration.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    elements: Elements,
}

impl Array {
    /// Takes elements, the last size the fastest.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are as many as the sizes say, [`Error::Value`] for numbers that are not finite.
    pub fn new(shape: &[usize], elements: Elements) -> Result<Self> {
        let got = match &elements {
            Elements::F32(values) => {
                crate::sparse_mlp::check_finite("array of a calibration", values)?;
                values.len()
            }
            Elements::U32(values) => values.len(),
        };
        let expected = crate::error::product("array of a calibration", shape)?;
        crate::error::check_len("array of a calibration", expected, got)?;
        Ok(Array { shape: shape.to_vec(), elements })
    }

    /// Its sizes, the slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }
}

/// What a calibration found for a policy: arrays by name. A policy that is made of it is, bit for bit, the one that is made at once with the
/// calibration ([`super::Named::make`]).
///
/// # Example
/// ```
/// use moray::policy::{Found, ModelSizes, Named, Site};
/// use moray::attention::AttentionShape;
///
/// let attention = AttentionShape::new(4, 2, 8)?;
/// let model = ModelSizes { n_layers: 2, d_model: 32, d_ff: 64, attention };
/// let mut found = Found::default();
/// found.put_f32("thresholds", &[2], vec![0.5, 0.25])?;
/// found.put_f32("largest", &[2], vec![2.0, 2.0])?;
/// let cats = Named::parse(Site::Neurons, "cats:0.5")?;
/// assert_eq!(cats.make_of(&model, &found)?.len(), 1);
/// let refusal = cats.make_of(&ModelSizes { n_layers: 3, ..model }, &found).unwrap_err().to_string();
/// assert!(refusal.contains("thresholds [3]") && refusal.contains("thresholds [2]"), "{refusal}");
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found(BTreeMap<String, Array>);

impl Found {
    /// The arrays, by name.
    pub fn arrays(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.0.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// Adds an array.
    pub fn put(&mut self, name: &str, array: Array) {
        self.0.insert(name.to_owned(), array);
    }

    /// Adds an array of numbers.
    ///
    /// # Errors
    /// As [`Array::new`].
    pub fn put_f32(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<()> {
        self.put(name, Array::new(shape, Elements::F32(values))?);
        Ok(())
    }

    /// Adds an array of indices.
    ///
    /// # Errors
    /// As [`Array::new`].
    pub fn put_u32(&mut self, name: &str, shape: &[usize], values: Vec<u32>) -> Result<()> {
        self.put(name, Array::new(shape, Elements::U32(values))?);
        Ok(())
    }

    /// The array of a name and these sizes.
    fn at(&self, name: &str, shape: &[usize]) -> Result<&Elements> {
        let array = self.0.get(name);
        match array.filter(|array| array.shape == shape) {
            Some(array) => Ok(&array.elements),
            None => {
                let got = array.map_or("none".to_owned(), |array| format!("{name} {:?}", array.shape));
                let (what, expected) = ("calibration", "arrays of the model's sizes");
                Err(Error::Unsupported { what, expected, got: format!("{got} in place of {name} {shape:?}") })
            }
        }
    }

    /// Numbers of a name and these sizes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no such array, or one of another type or other sizes.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<&[f32]> {
        match self.at(name, shape)? {
            Elements::F32(values) => Ok(values),
            Elements::U32(_) => Err(wrong_type(name, "numbers")),
        }
    }

    /// Indices of a name and these sizes.
    ///
    /// # Errors
    /// As [`Found::f32`].
    pub fn u32(&self, name: &str, shape: &[usize]) -> Result<&[u32]> {
        match self.at(name, shape)? {
            Elements::U32(values) => Ok(values),
            Elements::F32(_) => Err(wrong_type(name, "indices")),
        }
    }

    /// The size of an array that its policy chose, by its place among the array's; 0 where there is none.
    pub(super) fn size(&self, name: &str, place: usize) -> usize {
        self.0.get(name).and_then(|array| array.shape.get(place)).copied().unwrap_or(0)
    }

    /// Adds thresholds of each layer, and the largest of what they are compared with.
    pub(super) fn put_thresholds(&mut self, shape: &[usize], found: Vec<Threshold>) -> Result<()> {
        self.put_f32("thresholds", shape, found.iter().map(|found| found.threshold).collect())?;
        self.put_f32("largest", shape, found.iter().map(|found| found.largest).collect())
    }

    /// The thresholds, none of which keeps nothing of the text that it was set on.
    pub(super) fn thresholds(&self, shape: &[usize]) -> Result<&[f32]> {
        let (thresholds, largest) = (self.f32("thresholds", shape)?, self.f32("largest", shape)?);
        for (&threshold, &largest) in thresholds.iter().zip(largest) {
            Threshold { threshold, largest }.check()?;
        }
        Ok(thresholds)
    }
}

/// A threshold with the largest of the values that it was set on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Threshold {
    pub(super) threshold: f32,
    /// 0 where all were 0.
    pub(super) largest: f32,
}

impl Threshold {
    /// Refuses one that keeps nothing where there is something.
    pub(super) fn check(self) -> Result<()> {
        if self.largest > 0.0 && self.threshold >= self.largest {
            let expected = "less than the largest value of the calibration text, of which it keeps nothing";
            return Err(Error::Value { what: "threshold", expected, got: self.threshold });
        }
        Ok(())
    }
}

fn wrong_type(name: &str, in_place_of: &str) -> Error {
    let got = format!("{name} of another type in place of {in_place_of}");
    Error::Unsupported { what: "calibration", expected: "arrays of the policy's types", got }
}
