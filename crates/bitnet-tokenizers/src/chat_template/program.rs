//! A parsed template. Names and texts are shared, so that running it copies none.

use std::sync::Arc;

/// A template as it is run.
#[derive(Debug)]
pub(super) struct Program {
    pub body: Vec<Stmt>,
    /// Macros and the bodies of `call` blocks, by the number that [`StmtKind`] has.
    pub macros: Vec<Macro>,
    /// Loops, by the number that [`StmtKind::For`] has.
    pub loops: Vec<For>,
}

#[derive(Debug)]
pub(super) struct Stmt {
    pub line: u32,
    pub kind: StmtKind,
}

#[derive(Debug)]
pub(super) enum StmtKind {
    Text(Arc<str>),
    Output(Expr),
    /// An expression whose value nobody wants (`do`).
    Do(Expr),
    /// Condition and body of each branch, and the body of `else`.
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    For(usize),
    Set(Target, Expr),
    SetBlock(Target, Vec<Stmt>, Option<Expr>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    /// A macro of this number under its name.
    Macro(Arc<str>, usize),
    /// The call of a macro with the block (a macro of this number) as its `caller`.
    CallBlock(Expr, usize),
    /// The text of the block through a filter.
    Filter(Expr, Vec<Stmt>),
    /// Statements without a scope of their own (`generation`).
    Block(Vec<Stmt>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub target: Target,
    pub items: Expr,
    pub only_if: Option<Expr>,
    pub is_recursive: bool,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub name: Arc<str>,
    pub parameters: Vec<(Arc<str>, Option<Expr>)>,
    pub body: Vec<Stmt>,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    /// An attribute of a namespace.
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Expr {
    pub line: u32,
    /// Levels of expressions below and including this one.
    pub height: u32,
    pub kind: ExprKind,
}

#[derive(Debug)]
pub(super) enum ExprKind {
    Str(Arc<str>),
    Int(i64),
    Float(f64),
    Bool(bool),
    None,
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Arguments),
    /// Without an expression: of the text of a block.
    Filter(Option<Box<Expr>>, Arc<str>, Arguments),
    Test(Box<Expr>, Arc<str>, Arguments),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Value, condition, otherwise.
    Conditional(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
    Concat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

impl ExprKind {
    /// The levels below this expression.
    pub(super) fn height_below(&self) -> u32 {
        fn most<'a>(of: impl IntoIterator<Item = &'a Expr>) -> u32 {
            of.into_iter().map(|e| e.height).max().unwrap_or(0)
        }
        fn arguments(of: &Arguments) -> u32 {
            most(&of.positional).max(most(of.named.iter().map(|(_, e)| e)))
        }
        match self {
            Self::Str(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Bool(_)
            | Self::None
            | Self::Name(_) => 0,
            Self::List(items) | Self::Tuple(items) => most(items),
            Self::Dict(pairs) => most(pairs.iter().flat_map(|(key, value)| [key, value])),
            Self::Attribute(of, _) | Self::Not(of) | Self::Negative(of) => of.height,
            Self::Item(a, b) | Self::Binary(_, a, b) | Self::And(a, b) | Self::Or(a, b) => {
                a.height.max(b.height)
            }
            Self::Slice(of, bounds) => of.height.max(most(bounds.iter().flatten().map(|e| &**e))),
            Self::Call(of, args) | Self::Test(of, _, args) => of.height.max(arguments(args)),
            Self::Filter(of, _, args) => most(of.iter().map(|e| &**e)).max(arguments(args)),
            Self::Compare(first, rest) => first.height.max(most(rest.iter().map(|(_, e)| e))),
            Self::Conditional(value, test, otherwise) => {
                let height = value.height.max(test.height);
                height.max(most(otherwise.iter().map(|e| &**e)))
            }
        }
    }
}
