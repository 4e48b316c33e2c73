//! The elementwise ops of a layer: activation times up-projection, and the residual addition.

use super::isa::{Isa, Op};
use super::lanes::{exp, update, zip_into};
use crate::backend::Activation;

/// `out[i] = activation(gate[i]) * up[i]`; all slices have one length.
pub struct Gate<'a> {
    /// Which nonlinearity.
    pub activation: Activation,
    /// What it is applied to.
    pub gate: &'a [f32],
    /// What it is multiplied with.
    pub up: &'a [f32],
    /// The products.
    pub out: &'a mut [f32],
}

impl Op for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
        match self.activation {
            Activation::Silu => zip_into(isa, self.gate, self.up, self.out, |gate, up| {
                let silu = isa.div(gate, isa.add(one, exp(isa, isa.sub(zero, gate))));
                isa.mul(silu, up)
            }),
            Activation::Relu2 => zip_into(isa, self.gate, self.up, self.out, |gate, up| {
                let relu = isa.max(gate, zero);
                isa.mul(isa.mul(relu, relu), up)
            }),
        }
    }
}

/// `x[i] += y[i]`; the slices have one length.
pub struct Add<'a> {
    /// The residual stream.
    pub x: &'a mut [f32],
    /// What is added to it.
    pub y: &'a [f32],
}

impl Op for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        update(isa, self.x, self.y, |x, y| isa.add(x, y));
    }
}
