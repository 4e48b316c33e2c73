//! What an engine has to do and has done: gauges of now, counters since it was loaded.

/// Gauges and counters of an engine. Tokens and blocks, no times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct EngineLoad {
    /// Requests in the queue, those included that gave up their place for others.
    pub waiting: usize,
    /// Tokens that they have to run before they draw.
    pub waiting_prompt_tokens: usize,
    /// Requests that have a place.
    pub running: usize,
    /// Most requests that can have one.
    pub max_running: usize,
    /// Blocks of the KV cache.
    pub kv_blocks: usize,
    /// Blocks that running requests hold; one that several share counts once.
    pub kv_blocks_used: usize,
    /// Blocks that nobody holds and whose contents may still be found; they are handed out when others are wanted.
    pub kv_blocks_cached: usize,
    /// Times a running request gave up its place and blocks for one of higher rank.
    pub preemptions: u64,
    /// Tokens run again after that.
    pub recomputed_tokens: u64,
    /// Prompt tokens that were looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Those of them that were found.
    pub prefix_hits: u64,
    /// Prompt tokens run, each counted once.
    pub prompt_tokens: u64,
    /// Tokens drawn.
    pub generated_tokens: u64,
    /// Forward passes.
    pub steps: u64,
    /// Those of them that failed, and ended the requests in them.
    pub failed_steps: u64,
    /// Rows (tokens) that all of them carried, guesses included.
    pub rows: u64,
    /// Requests that ran past their deadline, waiting or running.
    pub deadlines_exceeded: u64,
    /// Times that what ran the model failed and the CPU took over.
    pub device_failures: u64,
}
