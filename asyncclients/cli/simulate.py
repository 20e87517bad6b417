"""`asyncclients simulate`: prove a configuration in virtual time before it meets a vendor."""
