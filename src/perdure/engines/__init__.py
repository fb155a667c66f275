"""What runs calls durably; engines know neither each other nor MCP."""
