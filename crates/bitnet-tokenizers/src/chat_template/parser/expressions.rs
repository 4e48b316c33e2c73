//! Tokens to expressions, by Jinja's levels of precedence.

use std::sync::Arc;

use super::super::failure::Failure;
use super::super::lexer::Token;
use super::super::program::{Arguments, Comparison, Expr, ExprKind, Operator};
use super::{MAX_HEIGHT, Parser};

impl Parser {
    fn node(&self, line: u32, kind: ExprKind) -> Result<Expr, Failure> {
        let height = kind.height_below() + 1;
        if height > MAX_HEIGHT {
            return Err(Failure::new(format!(
                "an expression of more than {MAX_HEIGHT} levels (recursion)"
            )));
        }
        Ok(Expr { line, height, kind })
    }

    /// The line of what comes next.
    fn line_here(&self) -> u32 {
        self.tokens
            .get(self.at)
            .map_or_else(|| self.line(), |(_, line)| *line)
    }

    /// An expression, or several with commas between them, which are a tuple.
    pub(super) fn tuple(&mut self) -> Result<Expr, Failure> {
        self.tuple_of(Self::expression)
    }

    /// As [`tuple`](Self::tuple), where `if` means something else.
    pub(super) fn tuple_without_condition(&mut self) -> Result<Expr, Failure> {
        self.tuple_of(Self::or)
    }

    fn tuple_of(&mut self, item: fn(&mut Self) -> Result<Expr, Failure>) -> Result<Expr, Failure> {
        let line = self.line_here();
        let first = item(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.op(",") {
            if matches!(
                self.peek(),
                Some(Token::BlockEnd | Token::OutputEnd | Token::Op(")")) | None
            ) {
                break;
            }
            items.push(item(self)?);
        }
        self.node(line, ExprKind::Tuple(items))
    }

    pub(super) fn expression(&mut self) -> Result<Expr, Failure> {
        self.enter()?;
        let line = self.line_here();
        let mut value = self.or()?;
        while self.keyword("if") {
            let test = Box::new(self.or()?);
            let otherwise = self
                .keyword("else")
                .then(|| self.expression())
                .transpose()?
                .map(Box::new);
            value = self.node(
                line,
                ExprKind::Conditional(Box::new(value), test, otherwise),
            )?;
        }
        self.depth -= 1;
        Ok(value)
    }

    fn or(&mut self) -> Result<Expr, Failure> {
        let line = self.line_here();
        let mut left = self.and()?;
        while self.keyword("or") {
            let right = Box::new(self.and()?);
            left = self.node(line, ExprKind::Or(Box::new(left), right))?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, Failure> {
        let line = self.line_here();
        let mut left = self.not()?;
        while self.keyword("and") {
            let right = Box::new(self.not()?);
            left = self.node(line, ExprKind::And(Box::new(left), right))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, Failure> {
        let line = self.line_here();
        if !self.keyword("not") {
            return self.compare();
        }
        self.enter()?;
        let of = Box::new(self.not()?);
        self.depth -= 1;
        self.node(line, ExprKind::Not(of))
    }

    fn compare(&mut self) -> Result<Expr, Failure> {
        let line = self.line_here();
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Some(Token::Op("==")) => Comparison::Equal,
                Some(Token::Op("!=")) => Comparison::NotEqual,
                Some(Token::Op("<")) => Comparison::Less,
                Some(Token::Op("<=")) => Comparison::LessOrEqual,
                Some(Token::Op(">")) => Comparison::Greater,
                Some(Token::Op(">=")) => Comparison::GreaterOrEqual,
                Some(Token::Name(name)) if name == "in" => Comparison::In,
                Some(Token::Name(name)) if name == "not" => {
                    self.at += 1;
                    if !self.is_name("in") {
                        return self.unexpected("`in`");
                    }
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        self.node(line, ExprKind::Compare(Box::new(first), rest))
    }

    fn binary(
        &mut self,
        operators: &[(&str, Operator)],
        operand: fn(&mut Self) -> Result<Expr, Failure>,
    ) -> Result<Expr, Failure> {
        let line = self.line_here();
        let mut left = operand(self)?;
        while let Some((_, operator)) = operators.iter().find(|(symbol, _)| self.is_op(symbol)) {
            self.at += 1;
            let right = Box::new(operand(self)?);
            left = self.node(line, ExprKind::Binary(*operator, Box::new(left), right))?;
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expr, Failure> {
        self.binary(
            &[("+", Operator::Add), ("-", Operator::Subtract)],
            Self::concat,
        )
    }

    fn concat(&mut self) -> Result<Expr, Failure> {
        self.binary(&[("~", Operator::Concat)], Self::product)
    }

    fn product(&mut self) -> Result<Expr, Failure> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Remainder),
        ];
        self.binary(&operators, Self::power)
    }

    fn power(&mut self) -> Result<Expr, Failure> {
        self.binary(&[("**", Operator::Power)], Self::unary)
    }

    fn unary(&mut self) -> Result<Expr, Failure> {
        let value = self.signed()?;
        self.filters(value)
    }

    /// A value with its signs and postfixes, without filters.
    fn signed(&mut self) -> Result<Expr, Failure> {
        let line = self.line_here();
        let is_negative = self.op("-");
        if !is_negative && !self.op("+") {
            let value = self.primary()?;
            return self.postfix(value);
        }
        self.enter()?;
        let of = self.signed()?;
        self.depth -= 1;
        if is_negative {
            return self.node(line, ExprKind::Negative(Box::new(of)));
        }
        Ok(of)
    }

    fn primary(&mut self) -> Result<Expr, Failure> {
        let line = self.line_here();
        if !matches!(
            self.peek(),
            Some(
                Token::Name(_)
                    | Token::Str(_)
                    | Token::Int(_)
                    | Token::Float(_)
                    | Token::Op("(" | "[" | "{")
            )
        ) {
            return self.unexpected("an expression");
        }
        let kind = match self.next()? {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => ExprKind::Bool(true),
                "false" | "False" => ExprKind::Bool(false),
                "none" | "None" => ExprKind::None,
                "if" | "else" | "elif" | "in" | "not" | "and" | "or" | "is" => {
                    return Err(Failure::new(format!(
                        "unexpected `{name}`, expected an expression"
                    )));
                }
                _ => ExprKind::Name(name.into()),
            },
            Token::Str(mut text) => {
                while let Some(Token::Str(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                ExprKind::Str(text.into())
            }
            Token::Int(number) => ExprKind::Int(number),
            Token::Float(number) => ExprKind::Float(number),
            Token::Op("(") if self.op(")") => ExprKind::Tuple(Vec::new()),
            Token::Op("(") => {
                let inside = self.tuple()?;
                self.expect_op(")")?;
                return Ok(inside);
            }
            Token::Op("[") => {
                let mut items = Vec::new();
                while !self.op("]") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.op("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                ExprKind::List(items)
            }
            _ => self.dict()?,
        };
        self.node(line, kind)
    }

    fn dict(&mut self) -> Result<ExprKind, Failure> {
        let mut pairs = Vec::new();
        while !self.op("}") {
            if !pairs.is_empty() {
                self.expect_op(",")?;
                if self.op("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_op(":")?;
            pairs.push((key, self.expression()?));
        }
        Ok(ExprKind::Dict(pairs))
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr, Failure> {
        loop {
            let line = self.line_here();
            let kind = if self.op(".") {
                if let Some(Token::Int(index)) = self.peek() {
                    let index = ExprKind::Int(*index);
                    self.at += 1;
                    ExprKind::Item(Box::new(value), Box::new(self.node(line, index)?))
                } else {
                    ExprKind::Attribute(Box::new(value), self.name()?)
                }
            } else if self.op("[") {
                self.subscript(value)?
            } else if self.op("(") {
                ExprKind::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
            value = self.node(line, kind)?;
        }
    }

    fn subscript(&mut self, of: Expr) -> Result<ExprKind, Failure> {
        let mut bounds = [const { None }; 3];
        let mut bound = 0;
        loop {
            if self.op("]") {
                break;
            }
            if self.op(":") {
                bound += 1;
                if bound == bounds.len() {
                    return Err(Failure::new(
                        "unexpected `:`: a slice has three parts at most",
                    ));
                }
                continue;
            }
            if bounds[bound].is_some() {
                return self.unexpected("`]` or `:`");
            }
            bounds[bound] = Some(Box::new(self.tuple()?));
        }
        match (bound, bounds) {
            (0, [Some(index), _, _]) => Ok(ExprKind::Item(Box::new(of), index)),
            (0, _) => self.unexpected("an index"),
            (_, bounds) => Ok(ExprKind::Slice(Box::new(of), bounds)),
        }
    }

    /// Arguments behind their opening bracket.
    fn arguments(&mut self) -> Result<Arguments, Failure> {
        let mut arguments = Arguments::default();
        let mut is_first = true;
        while !self.op(")") {
            if !is_first {
                self.expect_op(",")?;
                if self.op(")") {
                    break;
                }
            }
            is_first = false;
            let is_named = matches!(self.tokens.get(self.at + 1), Some((Token::Op("="), _)));
            if is_named && matches!(self.peek(), Some(Token::Name(_))) {
                let name = self.name()?;
                self.at += 1;
                arguments.named.push((name, self.expression()?));
            } else {
                arguments.positional.push(self.expression()?);
            }
        }
        Ok(arguments)
    }

    /// The filters, tests and calls behind a value.
    fn filters(&mut self, mut value: Expr) -> Result<Expr, Failure> {
        loop {
            let line = self.line_here();
            let kind = if self.op("|") {
                let name = self.name()?;
                let arguments = if self.op("(") {
                    self.arguments()?
                } else {
                    Arguments::default()
                };
                ExprKind::Filter(Some(Box::new(value)), name, arguments)
            } else if self.keyword("is") {
                let is_negated = self.keyword("not");
                let test = self.test(value)?;
                if !is_negated {
                    test
                } else {
                    ExprKind::Not(Box::new(self.node(line, test)?))
                }
            } else if self.op("(") {
                ExprKind::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
            value = self.node(line, kind)?;
        }
    }

    fn test(&mut self, value: Expr) -> Result<ExprKind, Failure> {
        let mut name = self.name()?;
        if &*name == "not" {
            name = self.name()?;
        }
        let arguments = match self.peek() {
            Some(Token::Op("(")) => {
                self.at += 1;
                self.arguments()?
            }
            Some(Token::Name(next))
                if matches!(
                    next.as_str(),
                    "else" | "or" | "and" | "is" | "if" | "in" | "not"
                ) =>
            {
                Arguments::default()
            }
            Some(
                Token::Name(_)
                | Token::Str(_)
                | Token::Int(_)
                | Token::Float(_)
                | Token::Op("[" | "{"),
            ) => {
                let argument = self.primary()?;
                let positional = vec![self.postfix(argument)?];
                Arguments {
                    positional,
                    named: Vec::new(),
                }
            }
            _ => Arguments::default(),
        };
        Ok(ExprKind::Test(Box::new(value), name, arguments))
    }

    /// The chain of filters of a `filter` or `set` block: of the block's text.
    pub(super) fn filters_of_a_block(&mut self) -> Result<Expr, Failure> {
        let line = self.line_here();
        let name: Arc<str> = self.name()?;
        let arguments = if self.op("(") {
            self.arguments()?
        } else {
            Arguments::default()
        };
        let first = self.node(line, ExprKind::Filter(None, name, arguments))?;
        self.filters(first)
    }
}
