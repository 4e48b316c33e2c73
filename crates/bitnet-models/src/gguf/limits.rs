//! The largest counts and sizes that a GGUF file may declare.
//!
//! Each is far above what any published model needs and low enough that a hostile header cannot make the
//! reader work or allocate out of proportion: together with the rule that nothing is allocated from a declared
//! count before its bytes are known to exist, opening a file takes at most 16 MiB plus four times its size.

/// Key-value pairs: real files hold 20 to 60.
pub const MAX_METADATA: u64 = 65_536;
/// Tensors: the largest mixture-of-experts files hold a few thousand.
pub const MAX_TENSORS: u64 = 1 << 20;
/// Bytes of a key: the specification's own limit.
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Bytes of one string value: the longest real ones are chat templates of some 20 KB.
pub const MAX_STRING_BYTES: u64 = 64 << 20;
/// Bytes of a tensor name; the specification says 64, merged adapters exceed it.
pub const MAX_NAME_BYTES: u64 = 256;
/// Elements of one array: the longest real ones are merge lists of some 300,000.
pub const MAX_ARRAY: u64 = 1 << 30;
/// Dimensions of a tensor: the format's own limit.
pub const MAX_DIMS: usize = 4;
/// Size of one dimension.
pub const MAX_DIM: u64 = 1 << 40;
/// Bytes that tensor data may be aligned to: 32 in practice, a few thousand for direct I/O.
pub const MAX_ALIGNMENT: u32 = 1 << 20;
/// Tokens of a vocabulary: the largest published ones have 262,144.
pub const MAX_VOCAB: u64 = 1 << 22;
/// Layers: upstream's own limit, four times the deepest published model.
pub const MAX_LAYERS: u64 = 512;
/// Files of a split: the name's pattern has five digits, real splits have up to about 50.
pub const MAX_SHARDS: u64 = 1024;
/// Alignment of tensor data when the file does not say.
pub const DEFAULT_ALIGNMENT: u32 = 32;
