"""Anonymous ratings: `issuer` signs tokens blindly, `box` takes ratings that nothing ties to anybody (DESIGN §7)."""
