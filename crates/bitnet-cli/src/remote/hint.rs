//! What a server advises a client, in the words of whoever typed a command: commands and options instead of routes,
//! headers and fields.

use bitnet_hub::shell::quoted;
use bitnet_server::routes::elsewhere;
use serde_json::Value;

/// How a server says a thing, and how it is said here.
const WORDS: &[(&str, &str)] = &[
    (
        "send a key as 'Authorization: Bearer KEY'; the operator makes one with `bitnet keys add`",
        "show a key of the role admin: --key-file FILE, or the variable BITNET_API_KEY; `bitnet keys add` makes one",
    ),
    ("GET /v1/models lists", "`bitnet ps` lists"),
    ("GET /v1/model_files lists", "`bitnet ps --files` lists"),
    ("POST /v1/models/swap puts", "`bitnet swap` puts"),
    (
        "or load it under an id of its own",
        "or load it with a --name of its own; `bitnet unload --forget` frees this one",
    ),
    (
        "or with force=true, which ends them",
        "or with --force, which ends them",
    ),
    (
        "try again when the model's status is loaded",
        "try again when `bitnet ps` shows it as loaded",
    ),
    (
        "when /health/ready answers 200",
        "when `bitnet healthcheck --ready` succeeds",
    ),
    ("wait as long as Retry-After says", "try again in a while"),
    (
        elsewhere::HINT,
        "administrators have a port of their own there: name it with --url, as the server's log does",
    ),
    (
        "the header Allow has the methods of this route; GET /openapi.json describes every route",
        "the server is of another version than this command",
    ),
    (
        "GET /openapi.json describes every route",
        "the server is of another version than this command",
    ),
];

/// Behind it a hint has the name that is to be free.
const FORGET: &str = "DELETE /v1/models/";

/// Behind it a hint has the body of the order.
const LOAD: &str = "POST /v1/models/load ";

/// Fields of orders and queries, and what gives them here.
const OPTIONS: &[(&str, &str)] = &[
    ("model_path", "PATH"),
    ("new_model_path", "PATH"),
    ("model_id", "--name"),
    ("target_model_id", "ID"),
    ("swap_strategy", "--strategy"),
    ("timeout_seconds", "--patience"),
];

/// What is wrong, by an answer's `error`.
pub fn message(error: &Value) -> String {
    as_options(error["message"].as_str().unwrap_or_default())
}

/// `text` with options in place of the fields that they give.
fn as_options(text: &str) -> String {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut said = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let (word, gap) = rest.split_at(end);
        let option = OPTIONS.iter().find(|(field, _)| *field == word);
        said.push_str(option.map_or(word, |(_, option)| option));
        let next = gap.find(is_of_name).unwrap_or(gap.len());
        said.push_str(&gap[..next]);
        rest = &gap[next..];
    }
    said
}

/// The command that loads the file at `path`, or where the known model comes from, as `id`.
pub fn load_command(path: Option<&str>, id: &str) -> String {
    let path = path.map_or_else(String::new, |path| format!(" {}", quoted(path)));
    format!("bitnet load{path} --name {}", quoted(id))
}

/// The orders that `hint` shows, to be sent as they are written, as commands to be typed as they are; the text around
/// them by `around`.
fn orders_as_commands(hint: &str, around: impl Fn(&str) -> String) -> String {
    let (mut said, mut rest) = (String::new(), hint);
    loop {
        let forget = rest.find(FORGET).map(|at| (at, FORGET));
        let load = rest.find(LOAD).map(|at| (at, LOAD));
        let Some((at, order)) = forget.into_iter().chain(load).min() else {
            return said + &around(rest);
        };
        said.push_str(&around(&rest[..at]));
        rest = &rest[at + order.len()..];
        let (command, len) = match order {
            FORGET => {
                let end = rest.find([',', ' ']).unwrap_or(rest.len());
                (
                    format!("bitnet unload {} --forget", quoted(&rest[..end])),
                    end,
                )
            }
            _ => {
                let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
                let order = values.next().and_then(Result::ok).unwrap_or_default();
                let (path, id) = (order["model_path"].as_str(), order["model_id"].as_str());
                (load_command(path, id.unwrap_or("ID")), values.byte_offset())
            }
        };
        said.push_str(&format!("`{command}`"));
        rest = &rest[len..];
    }
}

/// The hint of an answer's `error`.
pub fn in_commands(error: &Value) -> String {
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    orders_as_commands(text("hint"), |said| around_orders(said, error))
}

/// A part of the hint of `error` that shows no order.
fn around_orders(said: &str, error: &Value) -> String {
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    let mut hint = as_options(said);
    for (said, meant) in WORDS {
        hint = hint.replace(said, meant);
    }
    let option = OPTIONS.iter().find(|(field, _)| *field == text("param"));
    let option = option.map_or("what is wrong", |(_, option)| option);
    hint = hint.replace("the field that param names", option);
    hint.replace(
        "tell the operator the request_id; the log has the reason",
        &format!(
            "the log of the server has the reason, under {}",
            text("request_id")
        ),
    )
}

#[cfg(test)]
mod tests {
    use bitnet_server::error::ApiError;
    use bitnet_server::error::code::ERRORS;

    use super::*;

    /// Errors of what no command sends: other routes, other clients, or HTTP that is none.
    const NOT_OF_COMMANDS: [&str; 6] = [
        "invalid_json",
        "invalid_request",
        "missing_field",
        "request_not_found",
        "unsupported_media_type",
        "uri_too_long",
    ];

    #[test]
    fn no_hint_of_a_command_speaks_of_routes_headers_or_fields() {
        for row in ERRORS {
            if NOT_OF_COMMANDS.contains(&row.name) {
                continue;
            }
            let error = ApiError::about("model_id", row.code, "no").of_request("req-7");
            let hint = in_commands(&error.body()["error"]);
            for word in [
                "GET /",
                "POST /",
                "Retry-After",
                "header ",
                "param",
                "/health",
                "request_id",
            ] {
                assert!(!hint.contains(word), "{}: {hint}", row.name);
            }
        }
    }

    #[test]
    fn orders_are_told_as_commands_to_be_typed_as_they_are() {
        for (hint, told) in [
            (
                r#"free it with DELETE /v1/models/story, then POST /v1/models/load {"model_id":"story","model_path":"/m/a.gguf"}"#,
                "free it with `bitnet unload story --forget`, then `bitnet load /m/a.gguf --name story`",
            ),
            (
                r#"mend model_path, then POST /v1/models/load {"model_id":"a","model_path":"/m/it's model_path"}; or not"#,
                r"mend PATH, then `bitnet load '/m/it'\''s model_path' --name a`; or not",
            ),
            ("POST /v1/models/load none", "`bitnet load --name ID`none"),
        ] {
            let error = serde_json::json!({ "hint": hint });
            assert_eq!(in_commands(&error), told);
        }
    }

    #[test]
    fn a_field_is_told_as_the_option_that_gives_it() {
        let hint = |param: &str| {
            let code = bitnet_server::error::ErrorCode::InvalidValue;
            let error = ApiError::about(param.to_owned(), code, "no");
            in_commands(&error.body()["error"])
        };
        let said = |message: &str| super::message(&serde_json::json!({ "message": message }));
        assert_eq!(
            said("new_model_path names no model, model_id is 7; my_model_path too"),
            "PATH names no model, --name is 7; my_model_path too"
        );
        assert_eq!(said("(model_path)"), "(PATH)");
        assert_eq!(hint("timeout_seconds"), "change --patience");
        assert_eq!(hint("messages"), "change what is wrong");
    }
}
