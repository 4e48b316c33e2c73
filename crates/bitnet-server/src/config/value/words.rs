//! Settings that are one word of a few.

use bitnet_inference::{Dialects, KvType};

use super::{Given, SettingValue};

/// One of the engine's own words, which have names but no order: here they have that of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineWord<T>(pub T);

impl<T: PartialEq> PartialOrd for EngineWord<T>
where
    EngineWord<T>: SettingValue,
{
    fn partial_cmp(&self, other: &EngineWord<T>) -> Option<std::cmp::Ordering> {
        self.write().partial_cmp(&other.write())
    }
}

macro_rules! engine_words {
    ($($name:ty, $all:expr;)+) => {$(
        impl SettingValue for EngineWord<$name> {
            fn expected() -> String {
                let words: Vec<&str> = $all.iter().map(|word| word.name()).collect();
                format!("one of {}", words.join(", "))
            }

            fn read(given: Given<'_>) -> Option<Self> {
                let text = String::read(given)?;
                let word = $all.iter().copied().find(|word| word.name() == text);
                word.map(EngineWord)
            }

            fn write(&self) -> String {
                self.0.name().to_owned()
            }
        }
    )+};
}
engine_words! {
    KvType, KvType::ALL;
}

impl SettingValue for EngineWord<Dialects> {
    fn expected() -> String {
        Dialects::EXPECTED.to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        String::read(given)?.parse().ok().map(EngineWord)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

/// A setting that is one word of a few.
macro_rules! words {
    ($(#[$of:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl SettingValue for $name {
            fn expected() -> String {
                format!("one of {}", [$($word),+].join(", "))
            }

            fn read(given: Given<'_>) -> Option<$name> {
                match String::read(given)?.as_str() {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }

            fn write(&self) -> String {
                match self {
                    $($name::$variant => $word,)+
                }
                .to_owned()
            }
        }
    };
}

words! {
    /// Where models run.
    DevicePreference {
        /// What the probe at load finds fastest.
        Auto = "auto",
        /// The processor.
        Cpu = "cpu",
        /// A graphics processor, or nothing: without one the server does not start.
        Gpu = "gpu",
    }
}

words! {
    /// Whether requests for inference need a key where the server listens on loopback only.
    LoopbackInference {
        /// Open while neither keys nor tokens are configured.
        Auto = "auto",
        /// Open always; a key that is sent must still be a good one.
        Open = "open",
        /// A key always.
        Key = "key",
    }
}

words! {
    /// How JSON Web Tokens are signed. Exactly one is accepted, whatever a token's header says.
    JwtAlgorithm {
        /// HMAC with SHA-256 and a shared secret.
        Hs256 = "HS256",
        /// RSA PKCS #1 v1.5 with SHA-256.
        Rs256 = "RS256",
        /// ECDSA over P-256 with SHA-256.
        Es256 = "ES256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

words! {
    /// How lines of the server's own log are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// For programs, an object a line, and nothing else on standard error.
        Json = "json",
    }
}

words! {
    /// How requests are logged.
    AccessLogFormat {
        /// Not at all.
        None = "none",
        /// As the server's own log.
        On = "on",
        /// For people.
        Text = "text",
        /// For programs, an object a line.
        Json = "json",
    }
}

words! {
    /// How traces and metrics travel to a collector.
    OtlpProtocol {
        /// Protobuf over HTTP, port 4318.
        Http = "http",
        /// gRPC, port 4317.
        Grpc = "grpc",
    }
}

words! {
    /// How `/v1/embeddings` makes a vector of a text.
    PoolingChoice {
        /// As the model's files say; models whose files say nothing have no embeddings.
        Model = "model",
        /// The state of the last token.
        Last = "last",
        /// The mean over all tokens.
        Mean = "mean",
        /// The state of the first token.
        Cls = "cls",
    }
}
