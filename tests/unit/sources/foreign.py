"""Rows that several tests read."""

from __future__ import annotations

ANTHROPIC_ROW = {
    "model": "claude",
    "system": [{"type": "text", "text": "You are.", "cache_control": {"type": "ephemeral"}}],
    "tools": [{"name": "search", "description": "d", "input_schema": {"type": "object", "properties": {}}}],
    "messages": [
        {"role": "user", "content": "Where?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "text", "text": "I look "},
                {"type": "text", "text": "twice.", "citations": None},
                {"type": "tool_use", "id": "t1", "name": "search", "input": {"q": 1}},
                {"type": "tool_use", "id": "t2", "name": "search", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
                {"type": "text", "text": "Go on."},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "There."}], "stop_reason": "end_turn"},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9"}]},
    ],
}  # fmt: skip

TRAJECTORY_ROW = {
    "task_id": "t", "instruction": "Where?", "success": True, "total_reward": 1.0, "metadata": {"split": "dev"},
    "tools": [{"type": "function", "function": {"name": "search"}}], "system_prompt": None, "error": None,
    "steps": [
        {"thought": "hm", "action": "search", "action_input": {"q": 1}, "observation": "x", "reward": 0.5},
        {"thought": "", "action": "search", "action_input": {}, "observation": "no", "error": "arguments"},
        {"thought": "so", "action": "finish", "action_input": {"answer": "there"}, "reply": "so there"},
    ],
}  # fmt: skip
