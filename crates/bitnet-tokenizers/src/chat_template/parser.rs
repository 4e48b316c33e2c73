//! Tokens to a [`Program`]: statements. Expressions are in [`expressions`].
//!
//! The grammar is Jinja's, with its loop controls, `do`, and Hugging Face's `generation`. What reaches outside of a
//! template (`include`, `import`, `extends`) is no part of it.

mod expressions;

use std::sync::Arc;

use super::failure::Failure;
use super::lexer::{Token, lex};
use super::program::{Expr, ExprKind, For, Macro, Program, Stmt, StmtKind, Target};

/// Nesting of blocks, brackets and signs in the source: the stack must bear it in a thread with 2 MiB.
const MAX_DEPTH: u32 = 100;

/// Levels of one expression, chains of operators included: as `MAX_DEPTH`, and for whoever walks or drops it.
const MAX_HEIGHT: u32 = 150;

/// Parses a template.
///
/// # Errors
/// What is no template, with the line where it was found.
pub(super) fn parse(source: &str) -> Result<Program, (Failure, u32)> {
    let mut parser = Parser {
        tokens: lex(source)?,
        at: 0,
        depth: 0,
        loops_around: 0,
        macros: Vec::new(),
        loops: Vec::new(),
    };
    match parser.block(&[]) {
        Ok((body, _)) => Ok(Program {
            body,
            macros: parser.macros,
            loops: parser.loops,
        }),
        Err(failure) => Err((failure, parser.line())),
    }
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: u32,
    loops_around: u32,
    macros: Vec<Macro>,
    loops: Vec<For>,
}

impl Parser {
    /// The line of the token that was read last, as errors are about it.
    fn line(&self) -> u32 {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens
            .get(self.at.saturating_sub(1).min(last))
            .map_or(1, |(_, line)| *line)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn next(&mut self) -> Result<Token, Failure> {
        let token = self.tokens.get_mut(self.at);
        let (token, _) = token.ok_or_else(|| Failure::new("unexpected end of input"))?;
        // Read once only, but for the brackets of tags, which have no contents to lose.
        let token = match token {
            Token::Text(_) | Token::Str(_) | Token::Name(_) => {
                std::mem::replace(token, Token::BlockEnd)
            }
            _ => token.clone(),
        };
        self.at += 1;
        Ok(token)
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T, Failure> {
        let found = match self.peek() {
            None => "the end of the input".to_owned(),
            Some(Token::Text(_)) => "text".to_owned(),
            Some(Token::OutputBegin) => "`{{`".to_owned(),
            Some(Token::OutputEnd) => "`}}`".to_owned(),
            Some(Token::BlockBegin) => "`{%`".to_owned(),
            Some(Token::BlockEnd) => "`%}`".to_owned(),
            Some(Token::Name(name)) => format!("`{name:.40}`"),
            Some(Token::Str(_)) => "a string".to_owned(),
            Some(Token::Int(_) | Token::Float(_)) => "a number".to_owned(),
            Some(Token::Op(operator)) => format!("`{operator}`"),
        };
        Err(Failure::new(format!(
            "unexpected {found}, expected {wanted}"
        )))
    }

    fn is_op(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    /// Reads `operator` if it comes next.
    fn op(&mut self, operator: &str) -> bool {
        let found = self.is_op(operator);
        self.at += usize::from(found);
        found
    }

    /// Reads the keyword `name` if it comes next.
    fn keyword(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect_op(&mut self, operator: &'static str) -> Result<(), Failure> {
        if self.op(operator) {
            return Ok(());
        }
        self.unexpected(&format!("`{operator}`"))
    }

    fn expect(&mut self, token: &Token, shown: &str) -> Result<(), Failure> {
        if self.peek() == Some(token) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected(shown)
    }

    fn block_end(&mut self) -> Result<(), Failure> {
        self.expect(&Token::BlockEnd, "`%}`")
    }

    fn name(&mut self) -> Result<Arc<str>, Failure> {
        if !matches!(self.peek(), Some(Token::Name(_))) {
            return self.unexpected("a name");
        }
        match self.next()? {
            Token::Name(name) => Ok(name.into()),
            _ => self.unexpected("a name"),
        }
    }

    fn enter(&mut self) -> Result<(), Failure> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Failure::new(format!(
                "nested deeper than {MAX_DEPTH} levels (recursion)"
            )));
        }
        Ok(())
    }

    /// Statements up to a block of one of the names in `ends`, whose name is read and returned; without names, up to
    /// the end of the template.
    fn block(&mut self, ends: &[&'static str]) -> Result<(Vec<Stmt>, &'static str), Failure> {
        self.enter()?;
        let mut body = Vec::new();
        loop {
            match self.peek() {
                None if ends.is_empty() => break,
                None => {
                    return self.unexpected(&format!(
                        "`{}` (unexpected end of input)",
                        ends.join("` or `")
                    ));
                }
                Some(_) => {}
            }
            let token = self.next()?;
            let line = self.line();
            let kind = match token {
                Token::Text(text) => StmtKind::Text(text.into()),
                Token::OutputBegin => {
                    let value = self.tuple()?;
                    self.expect(&Token::OutputEnd, "`}}`")?;
                    StmtKind::Output(value)
                }
                Token::BlockBegin => {
                    if let Some(end) = ends.iter().find(|end| self.is_name(end)) {
                        self.at += 1;
                        self.depth -= 1;
                        return Ok((body, end));
                    }
                    self.statement()?
                }
                _ => return self.unexpected("text or a tag"),
            };
            body.push(Stmt { line, kind });
        }
        self.depth -= 1;
        Ok((body, ""))
    }

    /// The rest of a block whose body ends with `end`.
    fn body(&mut self, end: &'static str) -> Result<Vec<Stmt>, Failure> {
        self.block_end()?;
        let (body, _) = self.block(&[end])?;
        self.block_end()?;
        Ok(body)
    }

    fn statement(&mut self) -> Result<StmtKind, Failure> {
        let keyword = self.name()?;
        match &*keyword {
            "if" => self.condition(),
            "for" => self.for_loop(),
            "set" => self.set(),
            "with" => self.with(),
            "macro" => {
                let name = self.name()?;
                let number = self.macro_body(&name, "endmacro")?;
                Ok(StmtKind::Macro(name, number))
            }
            "call" => self.call_block(),
            "filter" => {
                let filter = self.filters_of_a_block()?;
                Ok(StmtKind::Filter(filter, self.body("endfilter")?))
            }
            "generation" => Ok(StmtKind::Block(self.body("endgeneration")?)),
            "do" => {
                let value = self.expression()?;
                self.block_end()?;
                Ok(StmtKind::Do(value))
            }
            "break" | "continue" if self.loops_around == 0 => Err(Failure::new(format!(
                "unexpected `{keyword}` outside of a loop"
            ))),
            "break" => self.block_end().map(|()| StmtKind::Break),
            "continue" => self.block_end().map(|()| StmtKind::Continue),
            "include" | "import" | "from" | "extends" => Err(Failure::new(format!(
                "`{keyword}`: templates cannot load others"
            ))),
            other => Err(Failure::new(format!("unexpected tag `{other:.40}`"))),
        }
    }

    fn condition(&mut self) -> Result<StmtKind, Failure> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple()?;
            self.block_end()?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match end {
                "elif" => {}
                "else" => return Ok(StmtKind::If(branches, self.body("endif")?)),
                _ => {
                    self.block_end()?;
                    return Ok(StmtKind::If(branches, Vec::new()));
                }
            }
        }
    }

    fn for_loop(&mut self) -> Result<StmtKind, Failure> {
        let target = self.target(false)?;
        if !self.keyword("in") {
            return self.unexpected("`in`");
        }
        let items = self.tuple_without_condition()?;
        let only_if = self.keyword("if").then(|| self.expression()).transpose()?;
        let is_recursive = self.keyword("recursive");
        self.block_end()?;
        self.loops_around += 1;
        let (body, end) = self.block(&["else", "endfor"])?;
        self.loops_around -= 1;
        let otherwise = match end {
            "else" => self.body("endfor")?,
            _ => {
                self.block_end()?;
                Vec::new()
            }
        };
        self.loops.push(For {
            target,
            items,
            only_if,
            is_recursive,
            body,
            otherwise,
        });
        Ok(StmtKind::For(self.loops.len() - 1))
    }

    fn set(&mut self) -> Result<StmtKind, Failure> {
        let target = self.target(true)?;
        if self.op("=") {
            let value = self.tuple()?;
            self.block_end()?;
            return Ok(StmtKind::Set(target, value));
        }
        let filter = self
            .op("|")
            .then(|| self.filters_of_a_block())
            .transpose()?;
        Ok(StmtKind::SetBlock(target, self.body("endset")?, filter))
    }

    fn with(&mut self) -> Result<StmtKind, Failure> {
        let mut variables = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !variables.is_empty() {
                self.expect_op(",")?;
            }
            let target = Target::Name(self.name()?);
            self.expect_op("=")?;
            variables.push((target, self.expression()?));
        }
        Ok(StmtKind::With(variables, self.body("endwith")?))
    }

    /// Parameters and body of a macro, and its number.
    fn macro_body(&mut self, name: &Arc<str>, end: &'static str) -> Result<usize, Failure> {
        let mut parameters: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        if end == "endmacro" || self.is_op("(") {
            self.expect_op("(")?;
            while !self.op(")") {
                if !parameters.is_empty() {
                    self.expect_op(",")?;
                    if self.op(")") {
                        break;
                    }
                }
                let name = self.name()?;
                let default = self.op("=").then(|| self.expression()).transpose()?;
                parameters.push((name, default));
            }
        }
        if end == "endcall" {
            // The call comes between its block's parameters and the block.
            return self.push_macro(name, parameters, Vec::new());
        }
        let loops_around = std::mem::take(&mut self.loops_around);
        let body = self.body(end)?;
        self.loops_around = loops_around;
        self.push_macro(name, parameters, body)
    }

    fn push_macro(
        &mut self,
        name: &Arc<str>,
        parameters: Vec<(Arc<str>, Option<Expr>)>,
        body: Vec<Stmt>,
    ) -> Result<usize, Failure> {
        self.macros.push(Macro {
            name: name.clone(),
            parameters,
            body,
        });
        Ok(self.macros.len() - 1)
    }

    fn call_block(&mut self) -> Result<StmtKind, Failure> {
        let number = self.macro_body(&"caller".into(), "endcall")?;
        let call = self.expression()?;
        if !matches!(call.kind, ExprKind::Call(..)) {
            return self.unexpected("the call of a macro");
        }
        let loops_around = std::mem::take(&mut self.loops_around);
        self.macros[number].body = self.body("endcall")?;
        self.loops_around = loops_around;
        Ok(StmtKind::CallBlock(call, number))
    }

    /// What a loop or `set` assigns to.
    fn target(&mut self, attributes: bool) -> Result<Target, Failure> {
        self.enter()?;
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            if self.op("(") {
                targets.push(self.target(false)?);
                self.expect_op(")")?;
            } else {
                let name = self.name()?;
                targets.push(if attributes && self.op(".") {
                    Target::Attribute(name, self.name()?)
                } else {
                    Target::Name(name)
                });
            }
            if !self.op(",") {
                break;
            }
            is_tuple = true;
            if !matches!(self.peek(), Some(Token::Name(_) | Token::Op("("))) || self.is_name("in") {
                break;
            }
        }
        self.depth -= 1;
        match targets.pop() {
            Some(only) if !is_tuple => Ok(only),
            last => Ok(Target::Tuple(targets.into_iter().chain(last).collect())),
        }
    }
}
