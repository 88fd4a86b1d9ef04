"""The five scenarios of Reiz, Neckel and Bungartz (2022)."""
