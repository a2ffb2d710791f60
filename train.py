"""Train a convolutional autoencoder: ``python train.py [group=option] [key=value] ...``."""

from convae.app.entry import main

if __name__ == "__main__":
    main()
