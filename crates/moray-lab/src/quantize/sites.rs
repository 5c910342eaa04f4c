//! Matrices of the forward pass that a caller multiplies.

use std::cell::RefCell;

use moray::llama::{CpuWork, Input};
use moray::{Cpu, Error, Result};
use rayon::prelude::*;

use super::layer::Site;
use crate::error;
use crate::on_cpu::{Matrices, Product};

/// A site's outputs \[T, N\] from its inputs \[T, K\]; none to end the pass there.
pub type AtSite<'a> = &'a mut dyn FnMut(Site, Vec<f32>) -> error::Result<Option<Vec<f32>>>;

/// What stands for a site's matrix.
#[derive(Debug)]
pub struct Place {
    /// The site.
    pub site: Site,
    /// N and K.
    pub shape: [usize; 2],
}

/// The matrices: what their inputs become, [`AtSite`] says.
pub struct Sites<'a> {
    cpu: &'a Cpu,
    at: RefCell<AtSite<'a>>,
    /// How the pass ended before its end: nothing is computed after that.
    ended: RefCell<Option<error::Result<()>>>,
}

impl<'a> Sites<'a> {
    /// Makes them for one pass.
    pub fn new(cpu: &'a Cpu, at: AtSite<'a>) -> Self {
        Sites { cpu, at: RefCell::new(at), ended: RefCell::new(None) }
    }

    /// Whether the pass went to its end.
    ///
    /// # Errors
    /// The caller's, from a site.
    pub fn finish(self) -> error::Result<bool> {
        self.ended.into_inner().map_or(Ok(true), |ended| ended.map(|()| false))
    }
}

impl Matrices for Sites<'_> {
    type Matrix = Place;

    fn cpu(&self) -> &Cpu {
        self.cpu
    }

    fn shape(place: &Place) -> [usize; 2] {
        place.shape
    }

    fn embed(&self, _: &mut CpuWork, _: &Place, _: &mut Vec<f32>) -> Result<()> {
        let (expected, got) = ("the matrices of a layer", "an embedding".into());
        Err(Error::Unsupported { what: "sites", expected, got })
    }

    fn multiply(
        &self,
        _: &mut CpuWork,
        call: Product<'_, Place>,
        residual: Option<&Vec<f32>>,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        let Place { site, shape: [_, k] } = *call.weight;
        let mut room = vec![0.0; call.m * k];
        let x = match call.input {
            Input::Plain(x) => x[..call.m * k].to_vec(),
            made => {
                made.plain(self.cpu, call.m, k, &mut room)?;
                room
            }
        };
        match (*self.at.borrow_mut())(site, x) {
            Ok(Some(outputs)) => {
                *y = outputs;
                if let Some(residual) = residual {
                    y.par_iter_mut().zip(residual).for_each(|(y, x)| *y += x);
                }
            }
            Ok(None) => *self.ended.borrow_mut() = Some(Ok(())),
            Err(error) => *self.ended.borrow_mut() = Some(Err(error)),
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }
}
