import com.amazon.randomcutforest.config.ForestMode;
import com.amazon.randomcutforest.config.Precision;
import com.amazon.randomcutforest.parkservices.ThresholdedRandomCutForest;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Scores streams of records, each with a forest of its own.
 *
 * <p>Arguments: the shingle size, a file to read and one to write. What is read begins, for each
 * stream, with a line of how many records and features it has; a line for each record follows. What
 * is written is a score for each record.
 */
public final class ScoreStreams {
  private static final int TREES = 50;
  private static final int SAMPLES = 256;
  private static final long SEED = 1;

  private ScoreStreams() {}

  public static void main(String[] arguments) throws IOException {
    int shingleSize = Integer.parseInt(arguments[0]);
    try (BufferedReader records = Files.newBufferedReader(Path.of(arguments[1]));
        PrintWriter scores = new PrintWriter(Files.newBufferedWriter(Path.of(arguments[2])))) {
      for (String head = records.readLine(); head != null; head = records.readLine()) {
        String[] sizes = head.split(" ");
        score(records, scores, Integer.parseInt(sizes[0]), Integer.parseInt(sizes[1]), shingleSize);
      }
    }
  }

  private static void score(
      BufferedReader records, PrintWriter scores, int count, int features, int shingleSize)
      throws IOException {
    ThresholdedRandomCutForest forest =
        ThresholdedRandomCutForest.builder()
            .dimensions(features * shingleSize)
            .shingleSize(shingleSize)
            .numberOfTrees(TREES)
            .sampleSize(SAMPLES)
            .randomSeed(SEED)
            .precision(Precision.FLOAT_32)
            .forestMode(ForestMode.STANDARD)
            .build();
    for (int number = 0; number < count; number++) {
      String[] texts = records.readLine().split(" ");
      double[] point = new double[features];
      for (int feature = 0; feature < features; feature++) {
        point[feature] = Double.parseDouble(texts[feature]);
      }
      scores.println(forest.process(point, number).getRCFScore());
    }
  }
}
