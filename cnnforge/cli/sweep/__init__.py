"""The command `cnnforge sweep`, and the process that trains its trials."""
