"""The five services of Leeward and the command that starts them."""
