//! GGUF files built byte by byte, so that every field can lie.

/// Value type numbers of the format.
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// Tensor type numbers of the format.
pub const T_F32: u32 = 0;
pub const T_F16: u32 = 1;
pub const T_Q8_0: u32 = 8;
pub const T_I2S: u32 = 36;

/// A key-value pair: key, value type, value.
#[derive(Clone)]
pub struct Pair(pub Vec<u8>, pub u32, pub Vec<u8>);

/// A directory entry and its data; an offset of `None` is the right one.
#[derive(Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub dims: Vec<u64>,
    pub ty: u32,
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// A file in pieces; counts of `None` are the right ones.
#[derive(Clone)]
pub struct File {
    pub version: [u8; 4],
    pub n_tensors: Option<u64>,
    pub n_pairs: Option<u64>,
    pub pairs: Vec<Pair>,
    pub tensors: Vec<Tensor>,
}

/// A length-prefixed string.
pub fn string(text: &str) -> Vec<u8> {
    prefixed(text.len() as u64, text.as_bytes())
}

/// A string that claims another length than it has.
pub fn prefixed(len: u64, bytes: &[u8]) -> Vec<u8> {
    [&len.to_le_bytes(), bytes].concat()
}

/// An array value: element type, count, elements.
pub fn array(ty: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&ty.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// An I2_S tensor of `n` weights, all codes as in `byte`, with a scale.
pub fn i2s(n: usize, byte: u8, scale: f32) -> Vec<u8> {
    [vec![byte; n / 4], scale.to_le_bytes().to_vec(), vec![0; 28]].concat()
}

/// Codes 2, 1, 0, 1: +1, 0, -1, 0.
pub const TRITS: u8 = 0b10_01_00_01;

impl File {
    /// A small `bitnet-b1.58` model that is right in every respect.
    pub fn model() -> Self {
        let mut file = Self {
            version: 3u32.to_le_bytes(),
            n_tensors: None,
            n_pairs: None,
            pairs: Vec::new(),
            tensors: Vec::new(),
        };
        file.set("general.architecture", STRING, string("bitnet-b1.58"));
        let sizes = [
            ("vocab_size", 8),
            ("context_length", 64),
            ("embedding_length", 128),
            ("block_count", 1),
            ("feed_forward_length", 256),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("rope.dimension_count", 64),
        ];
        for (key, size) in sizes {
            file.set_arch(key, U32, u32::to_le_bytes(size).into());
        }
        file.set_arch("attention.layer_norm_rms_epsilon", F32, f32s(&[1e-5]));
        file.set("tokenizer.ggml.model", STRING, string("gpt2"));
        let tokens: Vec<u8> = ('a'..='h').flat_map(|c| string(&c.to_string())).collect();
        file.set("tokenizer.ggml.tokens", ARRAY, array(STRING, 8, &tokens));
        file.set("tokenizer.ggml.eos_token_id", U32, vec![7, 0, 0, 0]);

        let ones = |n: usize| f32s(&vec![1.0; n]);
        file.add(
            "token_embd.weight",
            T_F16,
            &[128, 8],
            vec![0x3c; 128 * 8 * 2],
        );
        file.add("output_norm.weight", T_F32, &[128], ones(128));
        for (name, len) in [
            ("attn_norm", 128),
            ("attn_sub_norm", 128),
            ("ffn_norm", 128),
            ("ffn_sub_norm", 256),
        ] {
            file.add(
                &format!("blk.0.{name}.weight"),
                T_F32,
                &[len],
                ones(len as usize),
            );
        }
        let projections = [
            ("attn_q", 128, 128),
            ("attn_k", 128, 64),
            ("attn_v", 128, 64),
            ("attn_output", 128, 128),
            ("ffn_gate", 128, 256),
            ("ffn_up", 128, 256),
            ("ffn_down", 256, 128),
        ];
        for (name, cols, rows) in projections {
            let data = i2s((rows * cols) as usize, TRITS, 0.5);
            file.add(&format!("blk.0.{name}.weight"), T_I2S, &[cols, rows], data);
        }
        file
    }

    /// Sets a key, replacing the pair that has it.
    pub fn set(&mut self, key: &str, ty: u32, value: Vec<u8>) -> &mut Self {
        let pair = Pair(key.into(), ty, value);
        match self.pairs.iter_mut().find(|pair| pair.0 == key.as_bytes()) {
            Some(old) => *old = pair,
            None => self.pairs.push(pair),
        }
        self
    }

    /// Sets a key of the architecture's own.
    pub fn set_arch(&mut self, key: &str, ty: u32, value: Vec<u8>) -> &mut Self {
        self.set(&format!("bitnet-b1.58.{key}"), ty, value)
    }

    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.pairs.retain(|pair| pair.0 != key.as_bytes());
        self
    }

    pub fn add(&mut self, name: &str, ty: u32, dims: &[u64], data: Vec<u8>) -> &mut Self {
        self.tensors.push(Tensor {
            name: name.into(),
            dims: dims.into(),
            ty,
            offset: None,
            data,
        });
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name.as_bytes())
            .unwrap()
    }

    /// The file's bytes, tensors aligned to 32.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version);
        out.extend(
            self.n_tensors
                .unwrap_or(self.tensors.len() as u64)
                .to_le_bytes(),
        );
        out.extend(
            self.n_pairs
                .unwrap_or(self.pairs.len() as u64)
                .to_le_bytes(),
        );
        for Pair(key, ty, value) in &self.pairs {
            out.extend(prefixed(key.len() as u64, key));
            out.extend(ty.to_le_bytes());
            out.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            out.extend(prefixed(tensor.name.len() as u64, &tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor
                .dims
                .iter()
                .for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}
