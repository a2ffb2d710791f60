"""Train a convolutional autoencoder: ``python train.py [group=option] [key=value] ...``."""

from convae.app.start import train

if __name__ == "__main__":
    train()
