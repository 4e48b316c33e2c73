//! The elementwise ops of a layer: activation times up-projection, and the residual addition.

use super::isa::{Isa, Op};
use super::lanes::{Lanewise, exp, update, zip_into};
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
        match self.activation {
            Activation::Silu => zip_into(isa, self.gate, self.up, self.out, SiluTimes),
            Activation::Relu2 => zip_into(isa, self.gate, self.up, self.out, Relu2Times),
            Activation::GeluTanh => zip_into(isa, self.gate, self.up, self.out, GeluTanhTimes),
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
        update(isa, self.x, self.y, Sum);
    }
}

/// `silu(gate) * up`.
#[derive(Clone, Copy)]
struct SiluTimes;

impl Lanewise for SiluTimes {
    #[inline(always)]
    fn map<I: Isa>(self, isa: I, gate: I::F32x16, up: I::F32x16) -> I::F32x16 {
        let exp = exp(isa, isa.sub(isa.splat(0.0), gate));
        isa.mul(isa.div(gate, isa.add(isa.splat(1.0), exp)), up)
    }
}

/// `max(gate, 0)^2 * up`.
#[derive(Clone, Copy)]
struct Relu2Times;

impl Lanewise for Relu2Times {
    #[inline(always)]
    fn map<I: Isa>(self, isa: I, gate: I::F32x16, up: I::F32x16) -> I::F32x16 {
        let relu = isa.max(gate, isa.splat(0.0));
        isa.mul(isa.mul(relu, relu), up)
    }
}

/// `gelu(gate) * up`, with `0.5 (1 + tanh(u)) = 1 / (1 + exp(-2 u))`.
#[derive(Clone, Copy)]
struct GeluTanhTimes;

impl Lanewise for GeluTanhTimes {
    #[inline(always)]
    fn map<I: Isa>(self, isa: I, gate: I::F32x16, up: I::F32x16) -> I::F32x16 {
        const LINEAR: f32 = 1.595_769; // 2 sqrt(2 / pi)
        const CUBIC: f32 = 0.044_715 * LINEAR;
        let slope = isa.add(
            isa.splat(LINEAR),
            isa.mul(isa.splat(CUBIC), isa.mul(gate, gate)),
        );
        let exp = exp(isa, isa.sub(isa.splat(0.0), isa.mul(gate, slope)));
        isa.mul(isa.div(gate, isa.add(isa.splat(1.0), exp)), up)
    }
}

/// `x + y`.
#[derive(Clone, Copy)]
struct Sum;

impl Lanewise for Sum {
    #[inline(always)]
    fn map<I: Isa>(self, isa: I, x: I::F32x16, y: I::F32x16) -> I::F32x16 {
        isa.add(x, y)
    }
}
