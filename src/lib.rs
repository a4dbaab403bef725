//! Hadal: DeepSeek-V4 on any accelerator.
