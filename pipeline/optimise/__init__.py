"""How anything is optimised: networks that learn, pixels, generators against a teacher."""
